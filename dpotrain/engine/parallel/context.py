"""Processes that share the pairs of one data rank, each with a part of every row's tokens (``parallel.context``).

What they exchange inside a forward pass has gradients, and is exchanged again in the backward pass: every process of a
group goes through the same passes in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.distributed

from dpotrain.core.errors import RecipeError

_Exchanged: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class ContextGroup:
    """Such a group, seen from one of its processes. All methods are collective, and differentiable."""

    rank: int
    """Number of this process in the group, from 0."""
    size: int
    """Number of processes in the group."""
    group: torch.distributed.ProcessGroup
    """Over NCCL where the tensors are on CUDA, else over gloo."""
    begin: Callable[[], None]
    """Called before each exchange, which the device may have to wait in for other processes."""

    def swap(self, parts: torch.Tensor) -> torch.Tensor:
        """Return (size, …): from each process the part that it has for this one, of ``parts`` (size, …)."""
        swapped: torch.Tensor = _Exchange.apply(parts, self._swapped, self._swapped)  # type: ignore[no-untyped-call]
        return swapped

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum over the group of a floating-point tensor of one shape.

        Its gradient is the mean of those that the processes have for the sum, each of its own loss. All of them compute
        one loss of it, so the mean is that loss's gradient; where a loss draws random numbers, it is that of the mean
        of their losses.
        """
        total: torch.Tensor = _Exchange.apply(tensor, self._summed, self._averaged)  # type: ignore[no-untyped-call]
        return total

    def _swapped(self, parts: torch.Tensor) -> torch.Tensor:
        self.begin()
        parts = parts.contiguous()
        received = torch.empty_like(parts)
        torch.distributed.all_to_all_single(received, parts, group=self.group)
        return received

    def _summed(self, tensor: torch.Tensor) -> torch.Tensor:
        self.begin()
        total = tensor.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total, group=self.group)
        return total

    def _averaged(self, tensor: torch.Tensor) -> torch.Tensor:
        return self._summed(tensor) / self.size


class _Exchange(torch.autograd.Function):
    """``forth`` of a tensor, whose gradient is ``back`` of that of the result."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, forth: _Exchanged, back: _Exchanged) -> torch.Tensor:
        ctx.back = back
        return forth(tensor)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return ctx.back(grad), None, None


def check_groups(context: int, shards: int | None, processes: int) -> None:
    """Raise a RecipeError where so many processes do not make whole groups of ``context``, or of ``shards``.

    One process holds all weights, whatever ``shards`` is.
    """
    have = "1 process" if processes == 1 else f"{processes} processes"
    if processes % context:
        raise RecipeError(
            f"parallel.context = {context} divides every pair over {context} processes, and this run has {have}.\n"
            f"Start it in a multiple of {context}, as by dpotrain run RECIPE --processes {context}, or leave "
            "parallel.context out."
        )
    if shards is not None and processes > 1 and processes % shards:
        raise RecipeError(
            f"parallel.group = {shards} shards the weights over groups of {shards} processes, and this run has "
            f"{have}.\n"
            f"Start it in a multiple of {shards}, as by dpotrain run RECIPE --processes {shards}, or leave "
            "parallel.group out."
        )
