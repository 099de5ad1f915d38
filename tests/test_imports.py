"""What may stand in a module, read off the source, and how the heavy packages are imported.

Who may import whom is import-linter's (see pyproject.toml).
"""

import ast
import gc
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from dpotrain.core.packages import import_transformers

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


def test_coverage_looks_for_folders_and_no_packages():
    """It would drop what threads import while it looks for packages, in the middle of a test."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert all((ROOT / source).is_dir() for source in settings["tool"]["coverage"]["run"]["source"])


_COLLECTING = """
import gc, sys
from dpotrain.core.packages import import_transformers
gc.set_threshold(1)
import_transformers()
from transformers import modeling_utils
print(modeling_utils.collecting, gc.isenabled(), gc.get_freeze_count() > 10_000)
"""


def test_torch_and_transformers_are_imported_without_garbage_collection_then_and_of_them_later(tmp_path):
    package = tmp_path / "transformers"
    package.mkdir()
    (package / "__init__.py").touch()
    made = "import gc\ncollecting = gc.isenabled()\nkept = [[] for _ in range(20_000)]\n"
    (package / "modeling_utils.py").write_text(made)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", _COLLECTING],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False True True\n"


def test_where_torch_is_imported_already_nothing_is_taken_from_garbage_collection():
    import torch  # noqa: F401

    frozen, enabled = gc.get_freeze_count(), gc.isenabled()
    import_transformers()
    assert (gc.get_freeze_count(), gc.isenabled()) == (frozen, enabled)
