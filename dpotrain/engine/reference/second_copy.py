"""A second copy of the policy's trained weights, with which the policy computes as the reference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from dpotrain.engine.sharding.shards import is_sharded, local_shard


class SecondCopy:
    """The trained weights of a policy as they were at first, which can stand in for those being trained.

    What is not trained is shared. A copy has the dtype of the weight that it is of, so that both compute alike. Of a
    weight that is sharded over processes each has a copy of its shard.
    """

    def __init__(self, policy: nn.Module) -> None:
        """Copy what is trained of ``policy``, where it is; tied weights once."""
        self._weights = [weight for weight in policy.parameters() if weight.requires_grad]
        self._copies = [local_shard(weight).detach().clone() for weight in self._weights]

    @contextmanager
    def in_policy(self) -> Iterator[None]:
        """Hold the copy in the policy inside the context: it computes, saves and loads as the reference.

        No numbers are copied but those of sharded weights, whose shards change places with their copies. No backward
        pass may begin before the context and end in it, or the other way round.
        """
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def mix_in(self, share: float) -> None:
        """Make the copy ``share * policy + (1 - share) * copy``, computed in at least float32; 1 copies exactly."""
        for weight, copy in zip(self._weights, self._copies, strict=True):
            wide = torch.promote_types(copy.dtype, torch.float32)
            copy.copy_(torch.lerp(copy.to(wide), local_shard(weight).detach().to(wide), share))

    def _exchange(self) -> None:
        for number, (weight, copy) in enumerate(zip(self._weights, self._copies, strict=True)):
            if is_sharded(weight):  # what gathers it, and the optimizer, know its memory
                shard = local_shard(weight)
                before = shard.clone()
                shard.copy_(copy)
                copy.copy_(before)
            else:
                weight.data, self._copies[number] = copy, weight.data
