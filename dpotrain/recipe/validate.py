"""One table against its model, and the message of every error."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePath
from typing import Any, TypeVar

from pydantic import BaseModel, SecretStr, ValidationError

from dpotrain.core.errors import describe_exception, did_you_mean
from dpotrain.plugin.api import Component
from dpotrain.plugin.describe.expected import Expectations, shown
from dpotrain.recipe.foreign import FOREIGN_TABLES
from dpotrain.recipe.foreign_keys import foreign_hint
from dpotrain.recipe.sections.catalogue import CORE_SECTIONS
from dpotrain.recipe.sections.run import TopLevel

M = TypeVar("M", bound=BaseModel)

#: Collects a problem of a key (empty for the whole table): ``say(path, text)``.
Say = Callable[[tuple[str | int, ...], str], None]
#: Returns the tables of the recipe that have a key.
TablesWith = Callable[[str], list[str]]

#: Endings of pydantic's errors for a value of another type, size or word than expected.
_EXPECTED = ("_type", "_parsing", "_error", "_than", "_than_equal", "_short", "_long", "_mismatch", "_number")
_VALIDATORS = ("value_error", "assertion_error")
#: Types of JSON schemas that nothing lies in.
_SCALAR = ("string", "integer", "number", "boolean")


def validate(
    model: type[M],
    table: dict[str, Any],
    say: Say,
    *,
    owner: str = "",
    also_known: Iterable[str] = (),
    tables_with: TablesWith | None = None,
    components: Sequence[Component] = (),
) -> M | None:
    """Return the model of a table, or None where there are problems, which are collected.

    ``owner`` is the plugin that the table belongs to, ``also_known`` are keys of the table that are not the
    model's, and ``tables_with`` finds the tables that a key belongs to, where this one is the core's;
    ``components`` are those that stand in the table by their number.
    """
    expectations = Expectations(model)
    ok = True
    known = [*expectations.keys, *also_known]
    for key in table:
        if key not in expectations.keys:
            say((key,), _unknown_key(key, known, owner, tables_with))
            ok = False
    values = {key: value for key, value in table.items() if key in expectations.keys}
    # Defaults are checked like values.
    defaults = {key: field.default for key, field in model.model_fields.items()}
    texts = {key: text for key, value in defaults.items() if (text := _as_toml(value)) is not value}
    values = texts | expectations.none_for_false(values)
    try:
        # Through JSON, because pydantic's strict JSON mode matches TOML: no text for a number, but text for a path
        # and a list for a tuple.
        result = model.model_validate_json(json.dumps(values, default=str), strict=True, context=components)
    except ValidationError as error:
        _say_errors(error, values, expectations, owner, say, model)
        return None
    return result if ok else None


def _as_toml(default: Any) -> Any:
    """Return a default with the text that TOML has for a path or a secret, at any depth; itself if it has none."""
    if isinstance(default, PurePath):
        return str(default)
    if isinstance(default, SecretStr):
        return default.get_secret_value()
    if isinstance(default, dict):
        changed: Any = {key: _as_toml(value) for key, value in default.items()}
        same = all(changed[key] is default[key] for key in default)
    elif isinstance(default, list | tuple):
        changed = [_as_toml(value) for value in default]
        same = all(new is old for new, old in zip(changed, default, strict=True))
    else:
        return default
    return default if same else changed


def unknown_at_top(name: str, known: Iterable[str], what: str) -> str:
    """Return the text for a key or table at the top of a recipe that is not known, with the one that may be meant."""
    text = f"there is no such {what}"
    if what == "table" and name in FOREIGN_TABLES:
        return f"{text}; {FOREIGN_TABLES[name]}"
    if hint := foreign_hint(name, at_top=True):
        return f"{text}{hint}"
    tables = [table for table, section in CORE_SECTIONS.items() if name in section.model_fields]
    if tables and what == "key":
        return f"{text}; it belongs to " + " or ".join(f"[{table}]" for table in tables)
    return f"{text}{did_you_mean(name, known)}"


def _unknown_key(key: str, known: list[str], owner: str, tables_with: TablesWith | None) -> str:
    text = f"{owner} has no option {shown(key)}" if owner else "there is no such key"
    if hint := foreign_hint(key) or did_you_mean(key, known):
        return f"{text}{hint}"
    if key in TopLevel.model_fields:
        return f"{text}; {key} belongs at the top of the recipe, before any table"
    if tables_with is not None and key != "use" and (tables := tables_with(key)):
        return f"{text}; it belongs to " + " or ".join(f"[{table}]" for table in tables)
    return f"{text}; there {'is' if len(known) == 1 else 'are'} {', '.join(known)}" if known else text


def _say_errors(
    error: ValidationError,
    values: dict[str, Any],
    expectations: Expectations,
    owner: str,
    say: Say,
    model: type[BaseModel],
) -> None:
    expects = f"{owner} expects" if owner else "expected"
    said: set[tuple[str | int, ...]] = set()
    for detail in error.errors(include_url=False):
        path = _real_path(detail["loc"], values, detail["type"])
        if own := _of_a_model_inside(detail["loc"], expectations):
            say(detail["loc"][: -len(own)], f"{'.'.join(map(str, own))}: {detail['msg']}")
            continue
        if path in said:  # a union has an error for each of its members
            continue
        said.add(path)
        phrase = expectations.phrase(path) if path else None
        kind = detail["type"]
        if kind == "missing":
            say(path, f"missing; {expects} {phrase}" if phrase else f"missing; {owner or 'it'} needs a value")
        elif kind == "extra_forbidden":
            known = expectations.keys_inside(path[:-1])
            say(path, _unknown_key(str(path[-1]), known, owner, tables_with=None))
        elif kind in _VALIDATORS:
            say(path, _words(detail["ctx"]["error"], model))
        elif phrase is not None and kind.endswith(_EXPECTED):
            say(path, f"{expects} {phrase}, got {_got(path, values, expectations)}")
        else:
            words = detail["msg"][:1].lower() + detail["msg"][1:]
            say(path, f"{words}, got {_got(path, values, expectations)}" if path else words)


def _of_a_model_inside(loc: tuple[int | str, ...], expectations: Expectations) -> tuple[int | str, ...]:
    """Return the end of a location that lies inside a text or number, or in no key; empty where all of it is a key's.

    That is where a validator checks its value by another model, whose errors pydantic takes for its own.
    """
    if loc and loc[0] not in expectations.keys:
        return loc
    for length in range(1, len(loc)):
        schema = expectations.at(loc[:length])
        if schema is None:
            break
        if schema.get("type") in _SCALAR:
            return loc[length:]
    return ()


def _words(error: Exception, model: type[BaseModel]) -> str:
    """Return what a validator says: its own text, but type and place of what a library raised, or of no text."""
    packages = {each.__module__.partition(".")[0] for each in model.__mro__} - {"pydantic", "builtins"}
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    raised_in = (
        None if traceback is None else str(traceback.tb_frame.f_globals.get("__name__")).partition(".")[0]
    )
    if str(error).strip() and (raised_in is None or raised_in in packages):
        return str(error)
    return describe_exception(error, model.__module__)


def _real_path(loc: tuple[int | str, ...], values: Any, kind: str) -> tuple[str | int, ...]:
    """Return the keys of a location, without the names of union members that pydantic inserts."""
    path: list[str | int] = []
    for number, part in enumerate(loc):
        listed = isinstance(values, list) and isinstance(part, int) and part < len(values)
        if listed or (isinstance(values, dict) and part in values):
            values = values[part]
            path.append(part)
        elif kind == "missing" and number == len(loc) - 1:
            path.append(part)
    return tuple(path)


def _got(path: tuple[str | int, ...], values: Any, expectations: Expectations) -> str:
    if expectations.is_secret(path):
        return "something else"
    for part in path:
        values = values[part]
    return "false" if values is None else shown(values)
