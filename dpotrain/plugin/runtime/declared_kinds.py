"""The kinds of component that plugins declare, checked against each other and the core's."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from dpotrain.core.errors import PluginError
from dpotrain.plugin.api import KINDS, Component, Kind
from dpotrain.plugin.api.hookspecs import EVENTS
from dpotrain.plugin.api.kinds import dpotrain_kinds
from dpotrain.plugin.runtime.hooks import implementation_of, is_specification
from dpotrain.plugin.runtime.plugin import Plugin

_HOOK = dpotrain_kinds.__name__
_TABLE = re.compile(r"[a-z][a-z0-9_]*")

#: Top-level keys and tables of recipes that are the core's own, and no kind's.
_CORE = frozenset(
    {
        *("seed", "requires", "block", "extends", "run", "reference", "training", "evaluation", "samples"),
        *("checkpoints", "logging", "parallel"),
    }
)


def with_kinds(plugins: list[Plugin]) -> list[Plugin]:
    """Return the plugins with the kinds that they declare; one whose declaration cannot be used has failed."""
    taken: dict[str, str] = {}
    for kind in KINDS:
        _take(kind, "dpotrain", taken)
    return [_declaring(plugin, taken) for plugin in plugins]


def _declaring(plugin: Plugin, taken: dict[str, str]) -> Plugin:
    """Return a plugin with its kinds, and add them to ``taken``: owners by table, hook and words."""
    if plugin.failed or plugin.blocked:
        return plugin
    try:
        declare = implementation_of(plugin.module, _HOOK)
        kinds = () if declare is None else _checked(declare())
        for kind in kinds:
            _take(kind, plugin.label, taken)
    except (Exception, SystemExit) as error:  # a plugin may raise anything
        return plugin.failing(error)
    return replace(plugin, kinds=kinds)


def _checked(declared: Any) -> tuple[Kind, ...]:
    if isinstance(declared, type | str) or not isinstance(declared, Iterable):
        raise PluginError(f"{_HOOK} must return a list of kinds, not {declared!r}")
    kinds = tuple(declared)
    for kind in kinds:
        _check(kind)
    return kinds


def _check(kind: Any) -> None:
    if not isinstance(kind, Kind):
        raise PluginError(f"{_HOOK} must return Kind(…) objects, not {kind!r}")
    component = kind.component
    if not (isinstance(component, type) and issubclass(component, Component)):
        raise PluginError(f"{_HOOK}: {component!r} is not a subclass of Component")
    label = f"{_HOOK}: {component.__name__}"
    words = vars(component).get("kind")
    if not isinstance(words, str) or not words:
        raise PluginError(f'{label} needs its kind in words, such as kind = "judge"')
    if not is_specification(kind.hook) or not kind.hook.__name__.startswith("dpotrain_"):
        raise PluginError(
            f"{label}: its hook must be a function with @hookspec, called dpotrain_…, not {kind.hook!r}"
        )
    if inspect.signature(kind.hook).parameters:
        raise PluginError(f"{label}: the hook {kind.catalogue} must take no arguments")
    if not _TABLE.fullmatch(kind.table):
        raise PluginError(f'{label}: "{kind.table}" cannot be a table; use small letters, such as "judges"')
    if kind.selected not in ("listed", "optional") or kind.default_use is not None:
        raise PluginError(
            f'{label}: selected must be "listed" or "optional", without a default_use: what is installed must not '
            "change what a recipe means"
        )


def _take(kind: Kind, owner: str, taken: dict[str, str]) -> None:
    """Note what a kind's table, hook and words are; raise a PluginError for those that are another's."""
    names = (f"the table [{kind.table}]", f"the hook {kind.catalogue}", f'the kind "{kind.component.kind}"')
    for name in names:
        if name in taken:
            raise PluginError(f"{name} is {taken[name]}'s already; choose another name")
    if kind.table in _CORE or kind.catalogue in EVENTS:
        raise PluginError(f"{names[0]} or {names[1]} is dpotrain's own; choose another name")
    taken.update(dict.fromkeys(names, owner))
