"""The plugin interface as text: every signature that a plugin may count on, and nothing else."""

import inspect
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from dpotrain.plugin.api import Component
from dpotrain.plugin.api.hookspecs import HOOKS
from dpotrain.plugin.api.kinds import CATALOGUES
from dpotrain.plugin.runtime.interface import INTERFACE, OLDEST
from tests.docs.plugin_reference import BASES, OBJECTS

#: Attributes of every class that say nothing of what a plugin may count on.
_ODD = {"__init__", "__call__", "__len__", "__getitem__"}


def interface_text() -> str:
    """Return hooks, component types and what they are handed, one signature a line."""
    lines = [f"plugin interface {INTERFACE}, for plugins written for {OLDEST} and newer", "", "hooks"]
    lines += [f"  {hook}{_signature(HOOKS[hook])}" for hook in HOOKS]
    for owner in (Component, *CATALOGUES.values(), *BASES):
        hook = next((hook for hook, kind in CATALOGUES.items() if kind is owner), None)
        derives = f"({owner.__base__.__name__})" if owner in BASES else ""
        lines += ["", f"component {owner.__name__}{derives}" + (f", offered by {hook}" if hook else "")]
        lines += [f"  {line}" for line in _members(owner)]
        if "Options" in vars(owner):
            lines += [
                f"  option {name}: {_option(field)}" for name, field in owner.Options.model_fields.items()
            ]
    for owner in OBJECTS:
        lines += ["", f"object {owner.__name__}"]
        lines += [f"  {line}" for line in _members(owner)]
    return "\n".join(lines) + "\n"


def _members(owner: type) -> Iterator[str]:
    if issubclass(owner, Enum):
        yield from (f"{member.name} = {member.value}" for member in owner)
    elif is_dataclass(owner):
        yield from (f"{field.name}: {field.type}" for field in fields(owner))
    else:
        yield from (f"{name}: {kind}" for name, kind in inspect.get_annotations(owner).items())
    for name, value in vars(owner).items():
        if name.startswith("_") and name not in _ODD:
            continue
        if isinstance(value, property):
            yield f"property {name}{_signature(value.fget)}"
        elif inspect.isfunction(value) and not (name == "__init__" and not issubclass(owner, Component)):
            required = "required " if getattr(value, "__isabstractmethod__", False) else ""
            yield f"{required}{name}{_signature(value)}"


def _option(field: Any) -> str:
    default = "required" if field.is_required() else repr(field.default)
    return f"{getattr(field.annotation, '__name__', field.annotation)}, {default}"


def _signature(function: Any) -> str:
    return str(inspect.signature(function)).replace("'", "")
