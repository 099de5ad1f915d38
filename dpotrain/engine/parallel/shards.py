"""What one process holds of a weight that is sharded over several.

A sharded weight is a ``DTensor`` of torch: as a parameter of the model it has the whole's shape, and this process holds
some of its rows. While a layer computes, an ordinary tensor is in its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def is_sharded(weight: torch.Tensor) -> bool:
    """Whether a process holds only some rows of a weight."""
    return hasattr(weight, "to_local")


def local_shard(weight: torch.Tensor) -> torch.Tensor:
    """Return what this process holds of a weight, not copied: the weight itself where it is not sharded."""
    if not is_sharded(weight):
        return weight
    with torch.no_grad():  # otherwise it would be a function of the weight
        shard: torch.Tensor = weight.to_local().detach()  # type: ignore[attr-defined]
        return shard


@contextmanager
def gathered_layer(layer: nn.Module) -> Iterator[None]:
    """Have the weights of a layer whole inside the context, for computing with its modules one by one. Collective.

    Nothing happens to a layer that is not sharded.
    """
    sharded: Any = layer
    gathers = hasattr(layer, "unshard")
    if gathers:
        sharded.unshard()
    try:
        yield
    finally:
        if gathers:
            sharded.reshard()
