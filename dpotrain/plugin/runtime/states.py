"""States of components in a checkpoint, under a key for each component."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from dpotrain.plugin.api import Component, Logger, Selection
from dpotrain.plugin.api.returns import WrongReturnError
from dpotrain.plugin.runtime.loggers import LoggerSet
from dpotrain.plugin.runtime.storable import not_storable


def component_states(selection: Selection, loggers: LoggerSet) -> dict[str, Mapping[str, Any]]:
    """Return the state of every component that has one; a component's exception passes through.

    Raises:
        WrongReturnError: a component returned a state that a checkpoint cannot hold.
    """
    states = {}
    for key, part in by_key(selection):
        state = loggers.state_of(part) if isinstance(part, Logger) else part.state_dict()
        if fault := not_storable(state):
            raise WrongReturnError(f"state_dict returned {fault}", part)
        if state:
            states[key] = state
    return states


def restore_component_states(
    selection: Selection, loggers: LoggerSet, states: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Restore the states of components, and return the keys of states that no component has any more.

    A logger that raises is dropped; the exception of another component passes through.
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
    """Yield every component of a recipe with its key, which a resumed run computes again: ``loss "dpo"``."""
    seen: Counter[str] = Counter()
    for part in selection.components:
        name = f'{part.kind} "{part.name}"'
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name} #{seen[name]}", part
