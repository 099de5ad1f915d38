"""What components keep in a checkpoint, under keys that say whose it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dpotrain.core.errors import PluginError
from dpotrain.plugin.api import Component, Logger, Selection
from dpotrain.plugin.runtime.storable import not_storable

if TYPE_CHECKING:
    from dpotrain.plugin.runtime.loggers import LoggerSet
    from dpotrain.plugin.runtime.manager import PluginManager


def component_states(
    selection: Selection, plugins: PluginManager, loggers: LoggerSet
) -> dict[str, Mapping[str, Any]]:
    """Return the state of every component that has one; whatever a component raises passes through.

    Raises:
        PluginError: a component returned what no checkpoint can hold.
    """
    states = {}
    for key, part in by_key(selection):
        state = loggers.state_of(part) if isinstance(part, Logger) else part.state_dict()
        if fault := not_storable(state):
            raise PluginError(f"{plugins.label(part)} returned {fault} from state_dict")
        if state:
            states[key] = state
    return states


def restore_component_states(
    selection: Selection, loggers: LoggerSet, states: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Give components what they had, and return the keys of states that none of them owns any more.

    A logger that raises is dropped; what another component raises passes through.
    """
    left = dict(states)
    for key, part in by_key(selection):
        if key not in left:
            continue
        try:
            part.load_state_dict(left.pop(key))
        except Exception as error:
            if not isinstance(part, Logger):
                raise
            loggers.drop(part, "load_state_dict", error)
    return list(left)


def by_key(selection: Selection) -> Iterator[tuple[str, Component]]:
    """Yield every component of a recipe under a text that a resumed run finds again: ``loss "dpo"``."""
    seen: Counter[str] = Counter()
    for part in selection.components:
        name = f'{part.kind} "{part.name}"'
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name} #{seen[name]}", part
