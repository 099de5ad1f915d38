"""How many tokens a micro-batch may hold and how many layers are checkpointed, where the recipe leaves it to us."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from dpotrain.engine.memory.activations import Activations

#: Tokens that a micro-batch holds at most, by device. On a CPU the matrix products are at full speed long before
#: that, and more tokens would only take memory.
MOST_TOKENS = {"cpu": 1024, "cuda": 65536}
#: Share of the free memory that activations may take; the rest is for fragmentation and for what nobody counted.
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
    """What keeps ``tokens`` from being more: memory, that more would be no faster, the recipe, or the checkpoint
    that the run goes on from."""
    longest_fits: bool
    """Whether the longest pair fits into the memory there is, by this count."""


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
    them if it never does. Without ``tokens``, it is what fits then, up to what the device has use for.

    Args:
        activations: what a micro-batch keeps.
        room: bytes for it: :data:`SHARE` of what is free and not spoken for.
        longest: what the longest pair costs, in tokens; a pair cannot be cut.
        device: "cpu" or "cuda".
        tokens: what the recipe sets.
        checkpointed: what the recipe sets.
    """
    layers = len(activations.layers)
    if checkpointed is None:
        # Every micro-batch that the recipe asks for must fit, or where it asks for none, the longest pair.
        need = longest if tokens is None else max(tokens, longest)
        dial = range(layers + 1)
        checkpointed = next((k for k in dial if activations.most_tokens(room, k) >= need), layers)
    fitting = activations.most_tokens(room, min(checkpointed, layers))
    most = MOST_TOKENS.get(device, MOST_TOKENS["cpu"])
    if tokens is not None:
        return Fit(tokens, checkpointed, layers, "recipe", fitting >= longest)
    limit: Limit = "memory" if fitting < most else "speed"
    return Fit(max(1, min(fitting, most)), checkpointed, layers, limit, fitting >= longest)
