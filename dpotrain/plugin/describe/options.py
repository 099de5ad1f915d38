"""The options of a component, for people: what each takes, its default, and a table to begin with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from dpotrain.plugin.api import Component, DatasetFormatter, kind_of
from dpotrain.plugin.describe.expected import Expectations, shown


@dataclass(frozen=True, slots=True)
class Option:
    """One key of a table."""

    name: str
    takes: str
    """In words: ``an integer >= 1``."""
    default: str
    """As TOML writes it; empty for one that is required, "unset" for none."""
    description: str


def options_of(model: type[BaseModel]) -> Iterator[Option]:
    """Yield the keys of a table in order."""
    expectations = Expectations(model)
    for name, field in model.model_fields.items():
        yield Option(name, expectations.phrase((name,)) or "", _default(field), field.description or "")


def example_table(component: type[Component]) -> str:
    """Return TOML that selects a component and writes out its defaults, to be pasted into a recipe.

    A key that is required, or unset unless it is given, stands there as a comment that says what it takes.
    """
    return table_of(component, [_line(option, component.Options) for option in options_of(component.Options)])


def table_of(component: type[Component], lines: Sequence[str]) -> str:
    """Return the TOML table that selects a component and has these lines for its options."""
    use = f'use = "{component.name}"'
    if issubclass(component, DatasetFormatter):
        if not lines:
            return f'[data]\nformat = "{component.name}"'
        return "\n".join(["[data.format]", use, *lines])
    return "\n".join([kind_of(component).heading, use, *lines])


def _line(option: Option, model: type[BaseModel]) -> str:
    if option.default in ("", "unset"):
        need = "required" if not option.default else "unset"
        return f"# {option.name} =   # {need}: {option.takes}"
    default = model.model_fields[option.name].get_default(call_default_factory=True)
    return f"{option.name} = {inline(to_jsonable_python(default))}"


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
    default: Any = to_jsonable_python(field.get_default(call_default_factory=True))
    if default is None:
        return "unset"
    return "{}" if default == {} else shown(default)
