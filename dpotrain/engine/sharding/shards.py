"""What one process holds of a weight that is sharded over several.

A sharded weight is a ``DTensor`` of torch: as a parameter of the model it has the whole's shape, and this process holds
some of its rows. While a layer computes, an ordinary tensor is in its place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
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


def holds_codes(weight: nn.Parameter) -> bool:
    """Whether the bytes of a whole weight are codes of a quantizer, which a cast to another dtype would destroy."""
    return type(weight) is not nn.Parameter or not (weight.is_floating_point() or weight.is_complex())


def rounds_anyway(layer: nn.Module, matrices: Collection[nn.Parameter]) -> bool:
    """Whether bfloat16 autocast computes with all of these matrices that a layer has in bfloat16.

    Then nothing else reads their numbers, and they can be gathered in bfloat16.
    """
    if any(holds_codes(weight) for weight in layer.parameters() if weight in matrices):
        return False
    for module in layer.modules():
        if getattr(module, "lora_magnitude_vector", None):  # DoRA takes the norms of the base's weights
            return False
        own = any(weight in matrices for weight in module.parameters(recurse=False))
        if own and not isinstance(module, nn.Linear):
            return False
    return True


def gather_in_bfloat16(layer: Any) -> None:
    """Note that the matrices of a layer are in bfloat16 where they are computed with, whatever they are held in."""
    layer.dpotrain_gathers_bfloat16 = True


def computes_in_float32(model: nn.Module) -> bool:
    """Whether all weights of a model are in float32 where they are computed with, unless autocast rounds them."""
    if any(hasattr(module, "dpotrain_gathers_bfloat16") for module in model.modules()):
        return False
    return all(weight.dtype == torch.float32 for weight in model.parameters())


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
