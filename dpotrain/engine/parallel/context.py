"""Processes that share the pairs of one data rank, each with a part of every row's tokens (``parallel.context``).

What they exchange inside a forward pass has gradients, and is exchanged again in the backward pass: every process of a
group goes through the same passes in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed

from dpotrain.core.errors import RunError


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
        swapped: torch.Tensor = _Swap.apply(parts, self)  # type: ignore[no-untyped-call]
        return swapped

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum over the group of a floating-point tensor of one shape.

        Its gradient is the mean of those that the processes have for the sum, each of its own loss. All of them compute
        one loss of it, so the mean is that loss's gradient; where a loss draws random numbers, it is that of the mean
        of their losses.
        """
        total: torch.Tensor = _Total.apply(tensor, self)  # type: ignore[no-untyped-call]
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


class _Swap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parts: torch.Tensor, context: ContextGroup) -> torch.Tensor:
        ctx.context = context
        return context._swapped(parts)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.context._swapped(grad), None


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, context: ContextGroup) -> torch.Tensor:
        ctx.context = context
        return context._summed(tensor)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.context._summed(grad) / ctx.context.size, None


def check_context(size: int, processes: int) -> None:
    """Raise a RunError where so many processes do not make whole groups of ``size``."""
    if processes % size:
        have = "1 process" if processes == 1 else f"{processes} processes"
        raise RunError(
            f"parallel.context = {size} divides every pair over {size} processes, and this run has {have}.\n"
            f"Start it in a multiple of {size}, as by dpotrain run RECIPE --processes {size}, or leave "
            "parallel.context out."
        )
