"""Docstrings as Markdown."""

import inspect
import re
from collections.abc import Iterable, Sequence

_ROLE = re.compile(r":\w+:`~?([^`]+)`")
_LITERAL = re.compile(r"``([^`]+)``")


def prose(text: str) -> str:
    """Return text of a docstring with its reStructuredText marks as Markdown."""
    text = _ROLE.sub(lambda match: f"`{_short(match[1])}`", text)
    return _LITERAL.sub(r"`\1`", text)


def _short(path: str) -> str:
    """Return what a reader calls the object at a path: ``Run.log`` for ``dpotrain.core.records.Run.log``."""
    if not path.startswith(("dpotrain.", ".")):
        return path
    parts = path.split(".")
    first = next((number for number, part in enumerate(parts) if part[:1].isupper()), len(parts) - 1)
    return ".".join(parts[first:])


def paragraphs(owner: object) -> list[str]:
    """Return the paragraphs of an object's own docstring, each on one line."""
    doc = getattr(owner, "__doc__", None)
    if not doc:
        return []
    return [prose(" ".join(block.split())) for block in re.split(r"\n\s*\n", inspect.cleandoc(doc))]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: str) -> str:
    return prose(" ".join(value.split())).replace("|", "\\|")
