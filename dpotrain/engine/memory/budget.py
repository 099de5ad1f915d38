"""Choosing tokens of a micro-batch and checkpointed layers, where the recipe says "auto"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from dpotrain.engine.memory.activations import Activations

#: Tokens that a micro-batch holds at most, by device. On a CPU the matrix products are at full speed long before
#: that, and more tokens would only take memory.
MOST_TOKENS = {"cpu": 1024, "cuda": 65536}
#: Share of the free memory that activations may take; the rest is for fragmentation and for what is not counted.
SHARE = 0.75

Limit: TypeAlias = Literal["memory", "speed", "recipe", "checkpoint"]


@dataclass(frozen=True, slots=True)
class Fit:
    """What was chosen."""

    tokens: int
    """Tokens of a micro-batch; a longer pair gets one of its own."""
    checkpointed: int
    """Layers whose activations are computed again, of all ``layers``."""
    layers: int
    limit: Limit
    """What bounds ``tokens``: memory, that more would be no faster, the recipe, or the checkpoint that the run is
    resumed from."""


def fit(
    activations: Activations,
    room: float,
    *,
    longest: int,
    device: str,
    tokens: int | None = None,
    checkpointed: int | None = None,
) -> Fit:
    """Choose tokens and layers.

    Without a number of ``checkpointed`` layers, it is the smallest with which the longest pair fits; all of
    them if it never does. Without ``tokens``, it is what fits then, up to :data:`MOST_TOKENS`.

    ``room`` is the bytes for activations, :data:`SHARE` of what stays free beside everything else; ``longest`` the cost
    of the longest pair in tokens, which is never split; ``device`` "cpu" or "cuda"; the rest what the recipe sets.
    """
    layers = len(activations.layers)
    if checkpointed is None:
        # Micro-batches of the recipe's size must fit, or where it sets none, the longest pair.
        need = longest if tokens is None else max(tokens, longest)
        checkpointed = next(
            (k for k in range(layers + 1) if activations.most_tokens(room, k) >= need), layers
        )
    if tokens is not None:
        return Fit(tokens, checkpointed, layers, "recipe")
    fitting = activations.most_tokens(room, min(checkpointed, layers))
    most = MOST_TOKENS.get(device, MOST_TOKENS["cpu"])
    limit: Limit = "memory" if fitting < most else "speed"
    return Fit(max(1, min(fitting, most)), checkpointed, layers, limit)
