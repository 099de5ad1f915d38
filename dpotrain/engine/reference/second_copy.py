"""A second copy of the policy's trained weights, with which the policy computes as the reference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class SecondCopy:
    """The trained weights of a policy as they were at first, which can stand in for those being trained.

    What is not trained is shared. A copy has the dtype of the weight that it is of, so that both compute alike.
    """

    def __init__(self, policy: nn.Module) -> None:
        """Copy what is trained of ``policy``, on its device; tied weights once."""
        self._weights = [weight for weight in policy.parameters() if weight.requires_grad]
        self._copies = [weight.detach().clone() for weight in self._weights]

    @contextmanager
    def in_policy(self) -> Iterator[None]:
        """Hold the copy in the policy inside the context: it computes, saves and loads as the reference.

        No numbers are copied. No backward pass may begin before the context and end in it, or the other way round.
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
            copy.copy_(torch.lerp(copy.to(wide), weight.detach().to(wide), share))

    def _exchange(self) -> None:
        for number, weight in enumerate(self._weights):
            weight.data, self._copies[number] = self._copies[number], weight.data
