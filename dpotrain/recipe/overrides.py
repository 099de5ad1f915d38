"""``--set section.key=value``: overrides of a recipe, as one more layer on top of its files."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from dpotrain.core.errors import RecipeError, short
from dpotrain.recipe.values import check_values

_PART = r"""(?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+)"""
_KEY = re.compile(rf"\s*{_PART}(?:\s*\.\s*{_PART})*\s*")

_TOML_BEGINS = ("[", "{", '"', "'")  # of values that are meant as TOML, not as bare text


def override_layer(overrides: Sequence[str] | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return (origin, document) of overrides; of two for the same key the last one applies.

    A value is TOML; what is not TOML and does not begin like a list, table or quoted text is taken as text,
    so that ``--set model.name=org/model`` needs no quotes inside quotes. In a mapping (from Python) keys may
    be dotted as well, values are plain data, and None is what ``false`` is in TOML.

    Raises RecipeError for an override that cannot be read.
    """
    if isinstance(overrides, str):
        raise TypeError("overrides must be a list of texts or a mapping, not one text")
    document: dict[str, Any] = {}
    if isinstance(overrides, Mapping):
        for key, value in overrides.items():
            _put(document, _path(key, "overrides"), _plain(value), f"overrides: {short(key)}")
        check_values(document, "overrides")
        return "overrides", document
    for text in overrides:
        key, value = _split(text)
        _put(document, _path(key, "--set"), value, f"--set {short(text)}")
    check_values(document, "--set")
    return "--set", document


def _split(text: str) -> tuple[str, Any]:
    match = _KEY.match(text)
    if match is None or text[match.end() : match.end() + 1] != "=":
        raise RecipeError(
            f"--set {short(text)}: expected KEY=VALUE, as in --set training.epochs=2\n"
            "a key is a dotted path: table.key, or loggers.0.key for the first of [[loggers]]"
        )
    return match[0].strip(), _value(text[match.end() + 1 :].strip(), text)


def _value(text: str, override: str) -> Any:
    if not text:
        raise RecipeError(
            f'--set {short(override)}: there is no value; write "" for an empty text, false for none'
        )
    try:
        parsed = tomllib.loads(f"value = {text}")
    except RecursionError:
        raise RecipeError(f"--set {short(override)}: the value is nested too deeply") from None
    except ValueError as error:  # TOML's own, and Python's for a number of thousands of digits
        if text.startswith(_TOML_BEGINS):
            raise RecipeError(f"--set {short(override)}: the value is not TOML: {error}") from None
        return text
    # A value with a line break may parse as several keys; then it is meant as text.
    return parsed["value"] if parsed.keys() == {"value"} else text


def _path(key: str, origin: str) -> list[str]:
    if not _KEY.fullmatch(key):
        raise RecipeError(f"{origin}: {short(key)!r} is not a dotted key, such as training.epochs")
    path: list[str] = []
    try:
        table: Any = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{origin}: {short(key)!r} is not a dotted key: {error}") from None
    while isinstance(table, dict):
        name, table = next(iter(table.items()))
        path.append(name)
    return path


def _put(document: dict[str, Any], path: list[str], value: Any, where: str) -> None:
    table = document
    for depth, part in enumerate(path[:-1], start=1):
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            shown = short(".".join(path[:depth]))
            raise RecipeError(f"{where}: {shown} is already set to a value, so it has no keys")
    table[path[-1]] = value


def _plain(value: Any) -> Any:
    """Return a Python value as TOML would give it."""
    if value is None:
        return False
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value
