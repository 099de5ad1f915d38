"""What the engine and the run ask of the processes that they run in.

A **world rank** is a process; files, random states and messages go by it. A **data rank** is a group of processes that
computes pairs of its own: one process with a whole copy of the model, or those that share a model.
Methods marked *collective* must be called on every process, in the same order: they wait for the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import nn

from dpotrain.plugin.api import Adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

T = TypeVar("T")


class Parallel(Protocol):
    """The processes of a run, seen from one of them."""

    device: torch.device
    """Where this process computes."""
    world_rank: int
    """Number of this process, from 0."""
    world_size: int
    """Number of processes."""
    data_rank: int
    """Number of the group of processes that computes this process's pairs, from 0."""
    data_size: int
    """Number of such groups."""
    local_size: int
    """Number of processes on this machine, which share its host memory."""
    is_main: bool
    """Whether this is world rank 0, which writes files and talks to the person."""

    def place(
        self, scorer: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Return both made ready for training; the scorer's backward pass then exchanges gradients. Collective."""

    def accumulating(self, scorer: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """Return the context of a micro-batch: gradients are averaged over data ranks in the last only."""

    def clip(self, weights: Sequence[nn.Parameter], bound: float) -> torch.Tensor:
        """Scale gradients down to the norm ``bound``; return their norm before, a scalar on the device. Collective."""

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum over data ranks of a tensor of one shape, on each process's device. Collective."""

    def gather_objects(self, item: T) -> list[T]:
        """Return one object of every process, by world rank. Collective."""

    def broadcast_object(self, item: T) -> T:
        """Return the main process's object. Collective."""

    def any(self, *flags: bool) -> list[bool]:
        """Return of each flag whether it is set on any process. Collective."""

    def wait(self) -> None:
        """Return once every process has come here. Collective."""

    def trained_state(self, adapter: Adapter, policy: PreTrainedModel) -> Mapping[str, torch.Tensor]:
        """Return the trained tensors, whole, for a checkpoint; on processes other than the main one they may lack.

        Collective. Not copied.
        """

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> Mapping[str, Any]:
        """Return the optimizer's state, whole, as :meth:`trained_state` does. Collective."""

    def load_trained(
        self, adapter: Adapter, policy: PreTrainedModel, trained: Mapping[str, torch.Tensor]
    ) -> None:
        """Put back what :meth:`trained_state` returned, read on every process. Collective."""

    def load_optimizer(self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Put back what :meth:`optimizer_state` returned, read on every process. Collective."""

    def whole(self, policy: PreTrainedModel) -> AbstractContextManager[None]:
        """Return a context in which the main process sees the policy's weights whole, to save them. Collective."""

    def free(self) -> None:
        """Let go of what :meth:`place` made, when nothing more is trained."""
