"""What the engine and the run ask of the processes that they run in.

A **world rank** is a process; files, random states and messages go by it. A **data rank** is a group of processes that
computes pairs of its own: one process with a whole copy of the model, or those that share a model.
Methods marked *collective* must be called on every process, in the same order: they wait for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

import torch
from torch import nn

from dpotrain.engine.parallel.context import ContextGroup
from dpotrain.engine.parallel.failure import RankFailure
from dpotrain.plugin.api import Adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

T = TypeVar("T")

#: What computes something with a model, and what calls it and returns what it does.
Compute: TypeAlias = Callable[[], Any]
Computing: TypeAlias = Callable[[Compute], Any]


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
    context: ContextGroup | None
    """The processes of this data rank where they share its rows, each with a part of the tokens; else None."""
    first_of_data_rank: bool
    """Whether this process speaks for its data rank where what all its processes have counts once."""
    copies_states: bool
    """Whether :meth:`trained_state` and :meth:`optimizer_state` return copies in host memory."""
    collective_passes: bool
    """Whether passes of the model are collective, as they are where its weights are sharded or its rows divided: every
    process then makes as many of them, in the same order."""
    shards_weights: bool
    """Whether :meth:`shard` shards the weights of a model."""
    shards: int
    """Number of processes that hold one copy of the weights together; 1 where each holds all of them."""
    offloads: bool
    """Whether sharded weights, their gradients and the optimizer's state of them are in the host's memory."""

    def shard(
        self,
        policy: nn.Module,
        layers: Sequence[nn.Module],
        *,
        bf16: bool,
        in_place: bool,
        fill: Callable[[], None] | None = None,
    ) -> None:
        """Shard the weights of a model over the processes, in place, where they are to be sharded. Collective.

        ``layers`` are its decoder layers; ``bf16`` is whether it computes under bfloat16 autocast, ``in_place`` whether
        what is trained of it are its own weights, and not an adapter's. Of a model on the meta device ``fill`` gives
        the shards their numbers.
        """

    def computing(self, policy: nn.Module) -> Computing:
        """Return what calls a function that computes with a model, with gradients or without."""

    def gathered(self, policy: nn.Module) -> AbstractContextManager[None]:
        """Return a context in which a model computes without gradients, however it is called. Collective.

        Inside, every process has to make the same passes where they are collective.
        """

    def gathered_bytes(self, policy: nn.Module) -> int:
        """Return what weights that are gathered take at most at once, beside what this process holds of them."""

    def optimized(self, weights: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        """Return what an optimizer updates of trained weights, by name: each itself, or this process's shard of it.

        :meth:`exchange` gives them their gradients.
        """

    def begin_backward(self, *, last: bool) -> None:
        """Note that a backward pass is next, and whether it is the last one of a step."""

    def agreed(self, flag: bool) -> bool:
        """Return whether a flag is set on any of the processes whose passes are collective, so that all leave together.

        Collective where passes are; elsewhere it is this process's own flag.
        """

    def place(
        self, scorer: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Return both made ready for training, with the same trained weights on every process. Collective."""

    def exchange(self, weights: Sequence[nn.Parameter]) -> None:
        """Replace the gradients of ``weights`` by their sums over all processes. Collective.

        Those of a data rank that share its rows have each the gradients by way of their own tokens.

        A weight without a gradient on every rank stays without one.
        """

    def clip(self, weights: Sequence[nn.Parameter], bound: float) -> torch.Tensor:
        """Scale gradients down to the norm ``bound``; return their norm before, a scalar on the device. Collective."""

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum over data ranks of a small tensor of one shape, without gradients. Collective.

        Processes of one data rank have the same one, which counts once.
        It goes through the host's memory, and waits for the device.
        """

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

        Collective. Not copied, unless :attr:`copies_states`.
        """

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> Mapping[str, Any]:
        """Return the optimizer's state, whole, as :meth:`trained_state` does. Collective."""

    def load_trained(
        self, adapter: Adapter, policy: PreTrainedModel, trained: Mapping[str, torch.Tensor]
    ) -> None:
        """Put back what :meth:`trained_state` returned, read on every process. Collective."""

    def load_optimizer(self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Put back what :meth:`optimizer_state` returned, read on every process. Collective."""

    def whole_shapes(self, optimizer: torch.optim.Optimizer) -> list[torch.Size]:
        """Return the shapes of an optimizer's weights, whole, in the order in which its state numbers them."""

    def whole(self, adapter: Adapter, policy: PreTrainedModel) -> AbstractContextManager[None]:
        """Return a context in which the main process sees whole what the adapter saves of the policy. Collective.

        No process computes with the policy inside.
        """

    def on_failure(self, told: Callable[[RankFailure], None], leave: Callable[[RankFailure], None]) -> None:
        """Set what a thread calls when another process fails.

        ``told`` is called at once; ``leave``, which must end the process, if the main thread has not called
        :meth:`fail` some seconds later: it may be waiting for a device that waits for the other process.
        """

    def failure(self, seconds: float) -> RankFailure | None:
        """Return the failure of another process that came first, if one is known within so many seconds."""

    def fail(self, text: str, code: int) -> None:
        """Tell the other processes that this one ends with an error and an exit code; they then end with it, too."""

    def leave(self) -> None:
        """Return once every process has done its part; from then on each may end when it likes. Collective."""
