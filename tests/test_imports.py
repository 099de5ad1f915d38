"""Who may import whom, read off the source: what holds the house together and no single test would notice."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ENGINE = ROOT / "dpotrain"
PLUGINS = ROOT / "plugins" / "dpotrain_plugins"

modules = pytest.mark.parametrize(
    "module",
    [*sorted(ENGINE.rglob("*.py")), *sorted(PLUGINS.rglob("*.py"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield what import statements name, those inside functions too, absolute and in full."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module)


def strings(tree: ast.AST) -> Iterator[str]:
    """Yield every text that is no docstring or free-standing one."""
    free = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in free:
            yield node.value


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@modules
def test_a_module_says_what_it_is(module):
    assert ast.get_docstring(parse(module))


@modules
def test_no_module_imports_another_trainer(module):
    tops = {name.split(".")[0] for name in imported(parse(module))}
    assert not tops & {"trl", "axolotl", "llamafactory", "unsloth", "swift"}


@pytest.mark.parametrize("module", sorted(ENGINE.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_engine_knows_no_built_in_plugin(module):
    """By import, by dynamic import, or by the name of its module."""
    tree = parse(module)
    assert not [name for name in imported(tree) if name.split(".")[0] == "dpotrain_plugins"]
    assert not [text for text in strings(tree) if "dpotrain_plugins" in text]


@modules
def test_nothing_is_unpickled(module):
    """Only safetensors and JSON or TOML are read from disk."""
    tree = parse(module)
    assert not {name.split(".")[0] for name in imported(tree)} & {
        "pickle",
        "cloudpickle",
        "dill",
        "joblib",
        "shelve",
    }
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not calls & {"torch.load", "np.load", "numpy.load", "eval", "exec"}
