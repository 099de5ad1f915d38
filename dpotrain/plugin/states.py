"""What components keep in a checkpoint, under keys that say whose it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dpotrain.errors import PluginError
from dpotrain.plugin.components import Component, Logger

if TYPE_CHECKING:
    from dpotrain.plugin.loggers import LoggerSet
    from dpotrain.recipe.recipe import Recipe


def component_states(recipe: Recipe, loggers: LoggerSet) -> dict[str, Mapping[str, Any]]:
    """Return the state of every component that has one; whatever a component raises passes through.

    Raises:
        PluginError: a component returned what no checkpoint can hold.
    """
    states = {}
    for key, part in by_key(recipe):
        state = loggers.state_of(part) if isinstance(part, Logger) else part.state_dict()
        if fault := unfit(state):
            raise PluginError(f"{recipe.plugins.label(part)} returned {fault} from state_dict")
        if state:
            states[key] = state
    return states


def restore_component_states(
    recipe: Recipe, loggers: LoggerSet, states: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Give components what they had, and return the keys of states that none of them owns any more.

    A logger that raises is dropped; what another component raises passes through.
    """
    left = dict(states)
    for key, part in by_key(recipe):
        if key not in left:
            continue
        try:
            part.load_state_dict(left.pop(key))
        except Exception as error:
            if not isinstance(part, Logger):
                raise
            loggers.drop(part, "load_state_dict", error)
    return list(left)


def by_key(recipe: Recipe) -> Iterator[tuple[str, Component]]:
    """Yield every component of a recipe under a text that a resumed run finds again: ``loss "dpo"``."""
    seen: Counter[str] = Counter()
    for part in recipe.components:
        name = f'{part.kind} "{part.name}"'
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name} #{seen[name]}", part


def unfit(state: object) -> str:
    """Return what about a component's state a checkpoint cannot hold, or ""."""
    if not isinstance(state, Mapping):
        return f"{type(state).__name__}, which is no mapping,"
    return _odd(state)


def _odd(value: Any) -> str:
    import torch

    if value is None or isinstance(value, (torch.Tensor, str, bool, int, float)):
        return ""
    if isinstance(value, Mapping):
        keys = (
            f"a mapping with the key {key!r}, which is no text," for key in value if not isinstance(key, str)
        )
        return next(keys, "") or next(filter(None, map(_odd, value.values())), "")
    if isinstance(value, (list, tuple)):
        return next(filter(None, map(_odd, value)), "")
    return f"an object of type {type(value).__name__}, which no checkpoint can hold,"
