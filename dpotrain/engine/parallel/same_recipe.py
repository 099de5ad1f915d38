"""Every process of a run has to have the same recipe: nothing that they compute together would be defined otherwise."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dpotrain.core.errors import RecipeError
from dpotrain.recipe.flat import flat

#: Keys that processes may differ in: that one's time is over is agreed upon.
_FREE = frozenset({"run.max_minutes"})


def flat_settings(document: Mapping[str, Any]) -> dict[str, str]:
    """Return what the processes of a run have to agree in, of a resolved recipe: JSON by key, ``{"seed": "42"}``."""
    return {
        key: json.dumps(value, sort_keys=True, default=str)
        for key, value in flat(document)
        if key not in _FREE
    }


def differing_keys(settings: Sequence[Mapping[str, str]], names: Sequence[str]) -> list[str]:
    """Return a line for each key that two of ``settings`` differ in, with the first two values and who has them.

    ``settings`` are results of :func:`flat_settings`; ``names`` say of each whose it is.
    """
    lines = []
    for key in sorted(set().union(*settings)):
        values = [each.get(key, "nothing") for each in settings]
        other = next((number for number, value in enumerate(values) if value != values[0]), None)
        if other is not None:
            lines.append(f"  {key}: {values[0]} in {names[0]}, {values[other]} in {names[other]}")
    return lines


def check_same_recipe(gather: Callable[[Any], list[Any]], document: Mapping[str, Any]) -> None:
    """Compare the resolved recipes of all processes. Collective.

    ``gather`` returns one object of every process, by world rank.

    Raises:
        RecipeError: they differ, on every process with the same message.
    """
    settings = flat_settings(document)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    if len(set(gather(digest))) == 1:
        return
    gathered = gather((settings, socket.gethostname()))
    lines = differing_keys(
        [each for each, _ in gathered],
        [f"process {rank} on {host}" for rank, (_, host) in enumerate(gathered)],
    )
    raise RecipeError(
        "the processes of this run have different recipes:\n"
        + "\n".join(lines)
        + "\nGive every process the same recipe with the same --set."
    )
