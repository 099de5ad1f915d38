"""What may stand in a module, read off the source; who may import whom is import-linter's (see pyproject.toml)."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
MODULES = {
    path: ast.parse(path.read_text(encoding="utf-8"))
    for folder in ("dpotrain", "plugins/dpotrain_plugins")
    for path in sorted((ROOT / folder).rglob("*.py"))
}


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the top-level packages that import statements name, those inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).split(".")[0]


def strings(tree: ast.AST) -> Iterator[str]:
    """Yield every text that is no docstring or free-standing one."""
    free = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in free:
            yield node.value


def test_a_module_says_what_it_is():
    assert len(MODULES) > 100
    assert [path for path, tree in MODULES.items() if not ast.get_docstring(tree)] == []


def test_no_module_imports_another_trainer():
    trainers = {"trl", "axolotl", "llamafactory", "unsloth", "swift"}
    assert [path for path, tree in MODULES.items() if trainers & {*imported(tree)}] == []


def test_the_core_names_no_built_in_plugin():
    """Nor imports one dynamically, by the name of its module."""
    core = {path: tree for path, tree in MODULES.items() if path.is_relative_to(ROOT / "dpotrain")}
    named = [path for path, tree in core.items() if any("dpotrain_plugins" in text for text in strings(tree))]
    assert named == []


def test_nothing_is_unpickled():
    """Only safetensors and JSON or TOML are read from disk."""
    picklers = {"pickle", "cloudpickle", "dill", "joblib", "shelve"}
    readers = {"torch.load", "np.load", "numpy.load", "eval", "exec"}
    for path, tree in MODULES.items():
        assert not picklers & {*imported(tree)}, path
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert not readers & calls, path
