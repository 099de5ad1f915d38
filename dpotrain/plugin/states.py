"""What components keep in a checkpoint, under keys that say whose it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dpotrain.errors import DpotrainError, PluginError
from dpotrain.plugin.components import Component
from dpotrain.plugin.describe import describe_exception

if TYPE_CHECKING:
    from dpotrain.recipe.recipe import Recipe


def component_states(recipe: Recipe) -> dict[str, Mapping[str, Any]]:
    """Return the state of every component that has one.

    Raises:
        PluginError: a component raised, or returned what no checkpoint can hold.
    """
    states = {}
    for key, part in by_key(recipe):
        try:
            state = part.state_dict()
        except Exception as error:
            raise _named(recipe, part, "state_dict", error) from error
        if not isinstance(state, Mapping):
            raise PluginError(
                f"{_label(recipe, part)} returned {type(state).__name__} from state_dict; it must be a mapping"
            )
        if odd := _odd(state):
            raise PluginError(
                f"{_label(recipe, part)} returned {odd} from state_dict, which a checkpoint cannot hold"
            )
        if state:
            states[key] = state
    return states


def restore_component_states(recipe: Recipe, states: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Give components what they had; return the keys of states that none of them owns any more.

    Raises:
        PluginError: a component raised.
    """
    left = dict(states)
    for key, part in by_key(recipe):
        if key in left:
            try:
                part.load_state_dict(left.pop(key))
            except Exception as error:
                raise _named(recipe, part, "load_state_dict", error) from error
    return list(left)


def by_key(recipe: Recipe) -> Iterator[tuple[str, Component]]:
    """Yield every component of a recipe under a text that a resumed run finds again: ``loss "dpo"``."""
    seen: Counter[str] = Counter()
    for part in recipe.components:
        name = f'{part.kind} "{part.name}"'
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name} #{seen[name]}", part


def _label(recipe: Recipe, part: Component) -> str:
    return f'{part.kind} "{part.name}" of {recipe.plugins.owner(type(part)).label}'


def _named(recipe: Recipe, part: Component, method: str, error: Exception) -> DpotrainError:
    if isinstance(error, DpotrainError):
        return error
    return PluginError(f"{_label(recipe, part)} raised in {method}: {describe_exception(error)}")


def _odd(value: Any) -> str:
    """Return what in a state is neither a tensor nor plain data, or ""."""
    import torch

    if value is None or isinstance(value, (torch.Tensor, str, bool, int, float)):
        return ""
    if isinstance(value, Mapping):
        keys = (f"the key {key!r}" for key in value if not isinstance(key, str))
        return next(keys, "") or next(filter(None, map(_odd, value.values())), "")
    if isinstance(value, (list, tuple)):
        return next(filter(None, map(_odd, value)), "")
    return f"an object of type {type(value).__name__}"
