"""Choosing tokens of a micro-batch and how activations take less memory, where the recipe says "auto"."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from dpotrain.engine.layers.tiling import TILE_TOKENS
from dpotrain.engine.memory.activations import Activations

#: Tokens that a micro-batch holds at most, by device. On a CPU the matrix products are at full speed long before
#: that, and more tokens would only take memory.
MOST_TOKENS = {"cpu": 1024, "cuda": 65536}
#: Tokens that a micro-batch should hold, by device, before fewer layers are checkpointed: with fewer, matrix products
#: do not keep a GPU busy, which costs more than computing layers again. On a CPU a few hundred do.
FULL_TOKENS = {"cuda": 8192}
#: Share of the free memory that activations may take; the rest is for fragmentation and for what is not counted. On a
#: CPU the allocator has as much again as :data:`.planner.ALLOCATOR` says.
SHARE = {"cpu": 0.58, "cuda": 0.75}

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
    tile: int = 0
    """Tokens of the tiles in which longer rows go through norms and feed-forward blocks; 0: such rows stay whole."""
    on_host: bool = False
    """Whether the inputs of checkpointed layers are in the host's memory until the backward pass."""

    def peak(self, activations: Activations, tokens: int) -> float:
        """Return the bytes of a micro-batch of so many tokens at its peak."""
        return activations.peak(tokens, self.checkpointed, self.tile, self.on_host)

    def most_tokens(self, activations: Activations, room: float) -> int:
        """Return how many tokens fit into ``room`` bytes."""
        return activations.most_tokens(room, min(self.checkpointed, self.layers), self.tile, self.on_host)


def fit(
    activations: Activations,
    room: float,
    *,
    longest: int,
    device: str,
    tokens: int | None = None,
    checkpointed: int | None = None,
    offload: bool | None = False,
    host_room: float = math.inf,
    full: int = 0,
) -> Fit:
    """Choose tokens, and the cheapest way with which the longest pair fits; the most frugal one if it never does.

    Without ``tokens``, they are what fits then, up to :data:`MOST_TOKENS`; and where ``full`` tokens, or else more of
    them, fit with more layers checkpointed, these are. Tiles and copies to the host are for long pairs alone.

    ``room`` is the bytes for activations, :data:`SHARE` of what stays free beside everything else; ``longest`` the cost
    of the longest pair in tokens, which is never split; ``device`` "cpu" or "cuda"; ``checkpointed`` and ``tokens`` are
    what the recipe sets, None for "auto". ``offload`` is whether the inputs of checkpointed layers go to the host, None
    for only if that lets the pair fit, and ``host_room`` the bytes that are free there.
    """
    # Micro-batches of the recipe's size must fit, or where it sets none, the longest pair.
    need = longest if tokens is None else max(tokens, longest)
    ways = list(_ways(activations, need, device, checkpointed, offload, host_room))
    way = next((way for way in ways if way.most_tokens(activations, room) >= need), ways[-1])
    if tokens is not None:
        return replace(way, tokens=tokens, limit="recipe")
    plain = [each for each in ways if not each.tile and each.on_host == ways[0].on_host]
    if full > need and way in plain:
        way = max(
            plain, key=lambda each: min(full, each.most_tokens(activations, room))
        )  # the first of equal ones
    fitting = way.most_tokens(activations, room)
    most = MOST_TOKENS.get(device, MOST_TOKENS["cpu"]) * activations.context
    return replace(way, tokens=max(1, min(fitting, most)), limit="memory" if fitting < most else "speed")


def _ways(
    activations: Activations,
    need: int,
    device: str,
    checkpointed: int | None,
    offload: bool | None,
    host_room: float,
) -> Iterator[Fit]:
    """Yield ways to take less memory, without their tokens, from the fastest to the most frugal.

    Tiles take hardly any time where a layer is checkpointed, which computes them again anyway, so they come after all
    layers; a copy to the host may be slower than the computation beside it, so it comes last.
    """
    layers = len(activations.layers)
    counts = range(layers + 1) if checkpointed is None else [checkpointed]
    whole = [Fit(0, count, layers, "memory") for count in counts]
    last = whole[-1]
    tiles = last.checkpointed > 0 and any(activations.tiled)
    tiled = [replace(last, tile=TILE_TOKENS.get(device, TILE_TOKENS["cpu"]))] * tiles
    moves = device == "cuda" and 0 < last.checkpointed <= layers
    if offload and moves:
        yield from (replace(way, on_host=True) for way in (last, *tiled))
        return
    yield from (*whole, *tiled)
    if offload is None and moves and activations.on_host(need, last.checkpointed) <= host_room:
        yield replace([*whole, *tiled][-1], on_host=True)
