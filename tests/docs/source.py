"""Classes and functions as Markdown, read off their source: signatures as they are written, docstrings, attributes."""

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Collection, Iterator
from typing import Any

from dpotrain.plugin.api import Component
from tests.docs.markdown import prose

#: Special methods that are part of a contract, and attributes of components that only the core looks at.
_CALLED = {"__call__", "__len__", "__getitem__"}
_INTERNAL = {"kind", "options"}


def members(owner: type, level: int, only: Collection[str] | None = None) -> list[str]:
    """Return a class: docstring, attributes with theirs, methods with theirs under headings of that level.

    With ``only``, of its attributes and methods those.
    """
    node = definition(owner)
    blocks = paragraphs(ast.get_docstring(node))
    attributes = [
        f"- `{text}`{f': {doc}' if doc else ''}"
        for name, text, doc in _attributes(owner, node)
        if only is None or name in only
    ]
    if attributes:
        blocks.append("\n".join(attributes))
    for method in node.body:
        if not isinstance(method, ast.FunctionDef) or (only is not None and method.name not in only):
            continue
        if not method.name.startswith("_") or method.name in _CALLED:
            blocks += _method(method, level)
    return blocks


def function(of: Any, level: int, name: str | None = None) -> list[str]:
    """Return a function: its signature as a heading, its docstring."""
    node = definition(of)
    assert isinstance(node, ast.FunctionDef)
    signature = f"{name or node.name}({ast.unparse(node.args)}){_result(node)}"
    return [f"{'#' * level} `{signature}`", *paragraphs(ast.get_docstring(node))]


def definition(of: Any) -> Any:
    """Return the node that defines a class or a function at the top of its module."""
    of = inspect.unwrap(of)
    body = ast.parse(inspect.getsource(sys.modules[of.__module__])).body
    kinds = (ast.ClassDef, ast.FunctionDef)
    (node,) = (each for each in body if isinstance(each, kinds) and each.name == of.__name__)
    return node


def paragraphs(doc: str | None) -> list[str]:
    """Return a docstring's paragraphs, each on one line; of arguments and errors a list."""
    return [] if doc is None else [_paragraph(part) for part in re.split(r"\n\s*\n", doc)]


def _paragraph(text: str) -> str:
    head, *lines = text.splitlines()
    if head not in ("Args:", "Raises:"):
        return prose(" ".join(text.split()))
    entries: list[str] = []
    for line in textwrap.dedent("\n".join(lines)).splitlines():
        if line.startswith(" "):
            entries[-1] += f" {line.strip()}"
        else:
            entries.append(line)
    named = (entry.partition(": ") for entry in entries)
    return "\n".join([head, "", *(f"- `{name}`: {prose(meaning)}" for name, _, meaning in named)])


def comment(module: str, name: str) -> str:
    """Return the ``#:`` comment above the assignment of a name in a module, or ""."""
    lines: list[str] = []
    for line in inspect.getsource(sys.modules[module]).splitlines():
        if line.startswith("#:"):
            lines.append(line.removeprefix("#:").strip())
        elif re.match(rf"{name}\b.*=", line):
            return prose(" ".join(lines))
        else:
            lines.clear()
    return ""


def _attributes(owner: type, node: ast.ClassDef) -> Iterator[tuple[str, str, str]]:
    """Yield each attribute's name, the attribute as its source has it, and the text that stands below it."""
    for statement, following in zip(node.body, [*node.body[1:], ast.Pass()], strict=True):
        if not isinstance(statement, ast.AnnAssign | ast.Assign):
            continue
        name = ast.unparse(statement.target if isinstance(statement, ast.AnnAssign) else statement.targets[0])
        if issubclass(owner, Component) and name in _INTERNAL:
            continue
        doc = ""
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            doc = prose(" ".join(inspect.cleandoc(following.value.value).split()))
        yield name, _without_field(ast.unparse(statement)), doc


def _without_field(text: str) -> str:
    """Return an attribute without how its default is made, which is no business of a reader's."""
    return re.sub(r" = (field|lambda|nullcontext)\b.*", "", text)


def _method(method: ast.FunctionDef, level: int) -> list[str]:
    marks = {ast.unparse(decorator) for decorator in method.decorator_list}
    if "property" in marks:
        signature = f"{method.name}: {ast.unparse(method.returns) if method.returns else ''}"
    else:
        arguments = ast.unparse(method.args).removeprefix("self").removeprefix(", ").removesuffix(", /")
        signature = f"{method.name}({arguments}){_result(method)}"
    needed = " (required)" if "abstractmethod" in marks else " (final)" if "final" in marks else ""
    return [f"{'#' * level} `{signature}`{needed}", *paragraphs(ast.get_docstring(method))]


def _result(function: ast.FunctionDef) -> str:
    return f" -> {ast.unparse(function.returns)}" if function.returns else ""
