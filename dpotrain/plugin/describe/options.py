"""The options of a component, for people: what each takes, its default, and a table to begin with."""

from __future__ import annotations

import json
import types
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from dpotrain.core.errors import short
from dpotrain.plugin.api import Component, DatasetFormatter, kind_of
from dpotrain.plugin.api.nested import dumped
from dpotrain.plugin.describe.expected import PICKS, Expectations
from dpotrain.plugin.runtime.manager import PluginManager


@dataclass(frozen=True, slots=True)
class Option:
    """One key of a table."""

    name: str
    takes: str
    """In words: ``an integer >= 1``."""
    default: str
    """As TOML writes it; empty for one that is required, "unset" for none."""
    description: str
    tables: tuple[OptionTable, ...] = ()
    """The tables in its value, each with its keys."""
    picks: tuple[str, ...] = ()
    """Where its value has components: the names that ``use`` takes there."""


@dataclass(frozen=True, slots=True)
class OptionTable:
    """A table in the value of an option."""

    at: str
    """Where: ``nested``, ``terms[]`` for every item of a list, ``by_name.NAME`` for every value of a table."""
    options: tuple[Option, ...]


def options_of(model: type[BaseModel], plugins: PluginManager | None = None) -> Iterator[Option]:
    """Yield the keys of a table in order, with those of the tables in their values.

    ``plugins`` are those whose components are named where an option has components.
    """
    return _options(model, plugins, frozenset())


def _options(
    model: type[BaseModel], plugins: PluginManager | None, above: frozenset[type]
) -> Iterator[Option]:
    expectations = Expectations(model)
    above |= {model}
    for name, field in zip(expectations.keys, model.model_fields.values(), strict=True):
        found = list(_inside(field.annotation, name))
        yield Option(
            name,
            expectations.phrase((name,)) or "",
            _default(field),
            field.description or "",
            tables=tuple(
                OptionTable(at, tuple(_options(each, plugins, above)))
                for at, each in found
                if issubclass(each, BaseModel) and each not in above  # one that contains itself has no end
            ),
            picks=tuple(
                component
                for _, each in found
                if plugins is not None and issubclass(each, Component)
                for component in plugins.names(each)
            ),
        )


def _inside(annotation: Any, at: str) -> Iterator[tuple[str, type[BaseModel] | type[Component]]]:
    """Yield the models and kinds of component in the type of an option, each with its place."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel | Component):
        yield at, annotation
    elif origin is Annotated:
        yield from _inside(arguments[0], at)
    elif origin in (Union, types.UnionType):
        for each in arguments:
            yield from _inside(each, at)
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        yield from _inside(arguments[1], f"{at}.NAME")
    elif isinstance(origin, type) and issubclass(origin, Collection):
        for each in dict.fromkeys(arguments):
            yield from _inside(each, f"{at}[]")


def example_table(component: type[Component]) -> str:
    """Return TOML that selects a component and writes out its defaults, to be pasted into a recipe.

    A key that is required, or unset unless it is given, stands there as a comment that says what it takes.
    """
    lines, tables = [], []
    for option, field in zip(
        options_of(component.Options), component.Options.model_fields.values(), strict=True
    ):
        if option.takes == "a list of tables" and not option.default:
            # They come last: a key after them would be one of theirs.
            at = f"{kind_of(component).heading.strip('[]')}.{option.name}"
            tables += ["", f"# [[{at}]]   # required: once or more, with {_keys(option)}"]
        else:
            lines.append(_line(option, field))
    return table_of(component, [*lines, *tables])


def _keys(option: Option) -> str:
    """Return the keys of an option's tables in words; ``use`` for a component that stands in them."""
    keys = [each for table in option.tables for each in table.options]
    return ", ".join("use" if each.takes.startswith(PICKS) else each.name for each in keys)


def table_of(component: type[Component], lines: Sequence[str]) -> str:
    """Return the TOML table that selects a component and has these lines for its options."""
    use = f'use = "{component.name}"'
    if issubclass(component, DatasetFormatter):
        if not lines:
            return f'[data]\nformat = "{component.name}"'
        return "\n".join(["[data.format]", use, *lines])
    return "\n".join([kind_of(component).heading, use, *lines])


def _line(option: Option, field: FieldInfo) -> str:
    if option.default in ("", "unset"):
        need = "required" if not option.default else "unset"
        return f"# {option.name} =   # {need}: {option.takes}"
    return f"{option.name} = {inline(_default_of(field))}"


def inline(value: Any) -> str:
    """Return a value on one line of TOML, whose texts, numbers and lists are JSON's; what is none is left out."""
    if isinstance(value, dict):
        pairs = [f"{key} = {inline(item)}" for key, item in value.items() if item is not None]
        return f"{{ {', '.join(pairs)} }}" if pairs else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(inline, value))}]"
    return json.dumps(value, ensure_ascii=False)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return ""
    default = _default_of(field)
    return "unset" if default is None else short(inline(default), 60)


def _default_of(field: FieldInfo) -> Any:
    """Return the default of an option that has one as plain data."""
    return to_jsonable_python(field.get_default(call_default_factory=True), fallback=dumped)
