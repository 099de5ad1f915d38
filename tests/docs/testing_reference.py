"""The reference of ``dpotrain.testing``: fixtures, what runs a recipe, and the suites of tests."""

import ast
import inspect
import re

from dpotrain import testing
from dpotrain.plugin.describe.tracing import Call
from dpotrain.testing import ComponentConformance, VerbConformance, conformance, fixtures
from tests.docs.source import definition, function, members, paragraphs

#: Deprecated.
_LEFT_OUT = {VerbConformance.__name__}


def testing_page() -> str:
    """Return everything that ``dpotrain.testing`` has."""
    return "\n\n".join([*_fixtures(), *_functions(), *_suites()])


def _fixtures() -> list[str]:
    blocks = ["### Fixtures", 'Enabled by `pytest_plugins = ["dpotrain.testing"]` in a `conftest.py`.']
    for node in ast.parse(inspect.getsource(fixtures)).body:
        if isinstance(node, ast.FunctionDef) and (scope := _scope(node)):
            blocks += [f"#### `{node.name}`", *paragraphs(ast.get_docstring(node)), scope]
    return blocks


def _functions() -> list[str]:
    blocks = ["### Functions and objects"]
    for name in testing.__all__:
        value = getattr(testing, name)
        if (
            name in conformance.__all__
            or hasattr(value, "_fixture_function")
            or not hasattr(value, "__name__")
        ):
            continue
        if isinstance(value, type):
            blocks += [f"#### {name}", *members(value, 5)]
        elif inspect.isfunction(value):
            blocks += function(value, 4)
    return [*blocks, "#### Call", "An item of `FinishedRun.calls`.", *members(Call, 5)]


def _suites() -> list[str]:
    blocks = ["### Suites", *paragraphs(inspect.getdoc(conformance))[:1]]
    blocks += [
        "A subclass sets the attributes, and overrides fixtures and methods where its component needs more. "
        "Attributes, fixtures, methods and tests under `ComponentConformance` are part of every suite of components."
    ]
    names = [name for name in conformance.__all__ if name.endswith("Conformance") and name not in _LEFT_OUT]
    names.sort(key=lambda name: name != ComponentConformance.__name__)
    for name in names:
        blocks += _suite(getattr(testing, name))
    return [*blocks, *function(conformance.suite_of, 4)]


def _suite(suite: type) -> list[str]:
    node = definition(suite)
    methods = [each for each in node.body if isinstance(each, ast.FunctionDef)]
    tests = [each for each in methods if each.name.startswith("test_")]
    taken = [each for each in methods if _scope(each)]
    others = [each for each in methods if each not in tests and each not in taken]
    blocks = [f"#### {suite.__name__}", *members(suite, 5, only=_attributes(node))]
    for title, each in (("Fixtures", taken), ("Methods", others)):
        lines = [f"- `{_signature(method)}`: {_first(method)}" for method in each]
        blocks += [f"{title}:", "\n".join(lines)] if lines else []
    return [*blocks, "Tests:", "\n".join(f"- {_sentence(each.name)}. {_first(each)}" for each in tests)]


def _attributes(node: ast.ClassDef) -> list[str]:
    return [ast.unparse(each.target) for each in node.body if isinstance(each, ast.AnnAssign)]


def _scope(node: ast.FunctionDef) -> str:
    """Return how often a fixture is made; empty for a function that is none."""
    for each in node.decorator_list:
        text = ast.unparse(each)
        if text.startswith("pytest.fixture"):
            return "Made once a session." if "session" in text else "Made for each test."
    return ""


def _signature(method: ast.FunctionDef) -> str:
    if _scope(method):
        return method.name
    arguments = ast.unparse(method.args).removeprefix("self").removeprefix(", ")
    return f"{method.name}({arguments})" + (f" -> {ast.unparse(method.returns)}" if method.returns else "")


def _first(node: ast.FunctionDef) -> str:
    """Return a docstring on one line."""
    return " ".join(paragraphs(ast.get_docstring(node)))


def _sentence(name: str) -> str:
    """Return the name of a test as a sentence."""
    words = re.sub(r"_s(?=_|$)", "'s", name.removeprefix("test_")).replace("_", " ")
    return words[0].upper() + words[1:]
