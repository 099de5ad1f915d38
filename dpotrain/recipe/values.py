"""Values that TOML allows and no key takes, refused when a document is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, time
from typing import Any

from dpotrain.core.errors import RecipeError
from dpotrain.plugin.describe.expected import shown

#: Depth of nested tables and lists. The deepest key of any table is four deep.
DEEPEST = 32
_INTEGERS = range(-(2**63), 2**63)


def check_values(document: Mapping[str, Any], origin: str) -> None:
    """Raise a RecipeError for a value that no key takes.

    That is one nested deeper than :data:`DEEPEST`, an integer beyond TOML's 64 bits, a date or time, or a key or text
    with a NUL or half a surrogate pair, which neither a file system nor a tokenizer takes.
    """
    waiting: list[tuple[tuple[str, ...], Any]] = [((), document)]
    while waiting:
        place, value = waiting.pop()
        fault = _fault(value, len(place))
        if fault:
            raise RecipeError(f"{origin}: {'.'.join(place[:4])}{'.…' * (len(place) > 4)}: {fault}")
        waiting += [((*place, key), inner) for key, inner in _inside(value)]


def _inside(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((shown_key(key), inner) for key, inner in value.items())
    elif isinstance(value, list):
        yield from ((str(index), inner) for index, inner in enumerate(value))


def _fault(value: Any, depth: int) -> str:
    if isinstance(value, Mapping | list) and depth > DEEPEST:
        return f"tables and lists are nested more than {DEEPEST} deep"
    if isinstance(value, int) and value not in _INTEGERS:
        return "an integer of more than 64 bits, which TOML does not have"
    if isinstance(value, date | time):  # would be read as text
        return f"{value} is a date or time, which no key takes; write text in quotes"
    for text in value if isinstance(value, Mapping) else [value]:
        if isinstance(text, str) and "\0" in text:
            return f"{shown(text)} contains a NUL character, which no key, name or path can have"
        if isinstance(text, str) and any("\ud800" <= char <= "\udfff" for char in text):
            return f"{shown(text)} is not valid text: it contains half a surrogate pair (is the terminal set to UTF-8?)"
    return ""


def shown_key(key: str) -> str:
    """Return a key as messages show it: bare where TOML allows that, else quoted, and shortened where it is long."""
    bare = key.isascii() and key.replace("-", "_").replace("_", "a").isalnum()
    return key if bare and len(key) <= 60 else shown(key)
