"""Rows of a JSON document: a list of them, or an object that has the list under one of its keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dpotrain.plugin.api import DataError, did_you_mean

#: Keys of a turn of a conversation: who speaks, and what.
_TURNS = {"role": ("content", "tool_calls"), "from": ("value",)}
#: Objects inside each other in which a list of rows is looked for.
_DEEPEST_LIST = 3
#: Places that a message names.
_MOST_PLACES = 5


def document_rows(document: Any, path: Path, field: str | None) -> list[dict[str, Any]]:
    """Return the rows of a document: the list at ``field``, the document itself, or its only list of objects.

    An object without a list of objects in it is one row, unless it holds nothing but objects.

    Raises:
        DataError: there is no such list, it holds something else than objects, or it is not clear which list is meant.
    """
    where = str(path)
    if field is not None:
        document, where = _at(document, field, path), f"{path}, {field}"
    elif isinstance(document, dict):
        document = _whole(document, path)
    if not isinstance(document, list):
        raise DataError(f"{where} holds {kind(document)}; a list of objects, one a row, is expected.")
    for number, row in enumerate(document):
        if not isinstance(row, dict):
            raise DataError(f"{where}, row {number}: {kind(row)} where an object is expected.")
    return document


def kind(value: Any) -> str:
    """Return what a JSON value is, as messages say it."""
    kinds = {list: "a list", dict: "an object", str: "text", bool: "true or false"}
    return "a number" if type(value) in (int, float) else kinds.get(type(value), "null")


def _at(document: Any, field: str, path: Path) -> Any:
    """Return what a dotted path leads to; a key may have dots in it."""
    here, rest, gone = document, field, ""
    while rest:
        keys = here if isinstance(here, dict) else {}
        fitting = [key for key in keys if rest == key or rest.startswith(f"{key}.")]
        if not fitting:
            key = rest.partition(".")[0]
            there = f"; it has {', '.join(list(keys)[:_MOST_PLACES])}" if keys else f": it is {kind(here)}"
            raise DataError(
                f'data.field = "{field}": {gone or "the document"} in {path} has no key "{key}"'
                f"{did_you_mean(key, list(keys)) or there}."
            )
        key = max(fitting, key=len)
        here, rest, gone = here[key], rest[len(key) + 1 :], f"{gone}.{key}".removeprefix(".")
    return here


def _whole(document: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """Return the rows of an object: its only value, where that is a list of them, or else itself as the only row."""
    places, inner = list(_lists(document, "")), list(document.values())
    if len(inner) == 1 and (inner == [[]] or places == list(document)):
        rows: list[dict[str, Any]] = inner[0]
        return rows
    if not places:
        if len(inner) > 1 and all(isinstance(one, dict) and not _is_turn(one) for one in inner):
            raise DataError(
                f"{path} holds one object with {len(inner)} objects in it, and no list: which of them are rows is not "
                "clear.\nWrite the rows as a list, [ … ], or one a line."
            )
        return [document]
    shown = ", ".join(places[:_MOST_PLACES]) + ", …" * (len(places) > _MOST_PLACES)
    raise DataError(
        f"{path} holds one object, with a list of objects at {shown}.\n"
        f'Set data.field = "{places[0]}" to read that list\'s objects as rows. Where the whole object is one row, '
        "write it as a list: [ … ]."
    )


def _lists(value: dict[str, Any], before: str) -> Iterator[str]:
    """Yield where an object has lists of objects that may be rows, as dotted paths, the nearest first."""
    for key, inner in value.items():
        objects = isinstance(inner, list) and bool(inner) and all(isinstance(one, dict) for one in inner)
        if objects and not all(map(_is_turn, inner)):
            yield f"{before}{key}"
    if before.count(".") + 1 < _DEEPEST_LIST:
        for key, inner in value.items():
            if isinstance(inner, dict):
                yield from _lists(inner, f"{before}{key}.")


def _is_turn(value: dict[str, Any]) -> bool:
    """Whether an object is a turn of a conversation, of which a list belongs to one row."""
    return any(speaker in value and not value.keys().isdisjoint(said) for speaker, said in _TURNS.items())
