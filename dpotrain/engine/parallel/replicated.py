"""Several processes, each with a whole copy of the model: data parallelism.

Gradients are added up once a step, over NCCL on CUDA. Everything else goes over gloo on the CPU: it never waits behind
work of a device, it notices at once that a process has ended, and one process may work alone for hours.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar
from uuid import uuid4

import torch
import torch.distributed
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public all the same

from dpotrain.engine.parallel.context import ContextGroup, check_groups
from dpotrain.engine.parallel.exchange import sum_over_ranks
from dpotrain.engine.parallel.failure import RankFailure
from dpotrain.engine.parallel.one_process import OneProcess
from dpotrain.engine.parallel.same_recipe import check_same_recipe
from dpotrain.engine.parallel.watch import Watch

T = TypeVar("T")

#: How long a process tries to reach the store of its launcher, which is there before the process is started.
REACH_TIMEOUT = timedelta(seconds=30)
#: How long gradients may wait for those of the slowest rank. All ranks have just agreed to add them up.
EXCHANGE_TIMEOUT = timedelta(minutes=30)
#: How long ranks wait for one that works alone: saving large models, hashing their files, the longer share of a pass
#: over the data. Only a bug makes them wait for nothing, as the end of a process is noticed at once.
CONTROL_TIMEOUT = timedelta(hours=24)


class Replicated(OneProcess):
    """A launched run (torchrun, accelerate launch); see :class:`.protocol.Parallel`.

    Every process has all weights, so the states of one are the states of all, and what :class:`OneProcess` does about
    them is right here, too.
    """

    def __init__(
        self, context: int = 1, shards: int | None = None, document: Mapping[str, Any] | None = None
    ) -> None:
        """Join the other processes, of which ``context`` neighbours at a time share the rows of one data rank.

        ``document`` is the resolved recipe, which has to be the same on all.

        Raises:
            RecipeError: it is not, or ``context`` does not divide the processes, nor does ``shards``, where that is
                to be.
        """
        cuda = torch.cuda.is_available()
        if "LOCAL_RANK" in os.environ and not torch.distributed.is_initialized():
            torch.distributed.init_process_group(
                "cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=EXCHANGE_TIMEOUT, **_launchers_store()
            )
        # The scorer casts by itself, and only CUDA and CPU are proven.
        accelerator = Accelerator(
            mixed_precision="no",
            cpu=not cuda,
            kwargs_handlers=[
                InitProcessGroupKwargs(backend="nccl" if cuda else "gloo", timeout=EXCHANGE_TIMEOUT)
            ],
        )
        super().__init__(accelerator.device)
        self.world_rank, self.world_size = accelerator.process_index, accelerator.num_processes
        self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", self.world_size))
        self.is_main = accelerator.is_main_process
        self._watch: Watch | None = None
        self._control: torch.distributed.ProcessGroup = torch.distributed.new_group(
            backend="gloo", timeout=CONTROL_TIMEOUT
        )
        # Before anything that follows from it: with another one they would wait for each other.
        check_same_recipe(self.gather_objects, document or {})
        check_groups(context, shards, self.world_size)
        self.data_rank, self.data_size = self.world_rank // context, self.world_size // context
        if context > 1:
            self.context = self._context_group(context)
            self.first_of_data_rank, self.collective_passes = self.context.rank == 0, True
        if self.world_size > 1:
            self._watch = Watch(self.world_rank, self.world_size, self.broadcast_object(uuid4().hex))
            self.wait()

    def place(  # noqa: D102
        self, scorer: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        self._equalize(scorer.parameters())
        return scorer, optimizer

    def _equalize(self, weights: Iterable[nn.Parameter]) -> None:
        """Give every process the main process's numbers of trained weights. Collective."""
        self.wait()
        self._begin_exchange()
        # They were made with the same seed, but devices of two kinds draw other numbers from it.
        for weight in weights:
            if weight.requires_grad:
                received = weight.detach().contiguous()
                torch.distributed.broadcast(received, 0)
                if received.data_ptr() != weight.data_ptr():
                    weight.data.copy_(received)

    def exchange(self, weights: Sequence[nn.Parameter]) -> None:  # noqa: D102
        anywhere = self.any(*(weight.grad is not None for weight in weights))
        gradients = []
        for weight, has_one in zip(weights, anywhere, strict=True):
            if has_one:
                if weight.grad is None:
                    weight.grad = torch.zeros_like(weight)
                gradients.append(weight.grad)
        self._begin_exchange()
        sum_over_ranks(gradients)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:  # noqa: D102
        total = tensor.detach().to("cpu", copy=True)
        if not self.first_of_data_rank:
            total.zero_()
        torch.distributed.all_reduce(total, group=self._gloo())
        return total.to(tensor.device)

    def gather_objects(self, item: T) -> list[T]:  # noqa: D102
        gathered: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(gathered, item, group=self._gloo())
        return gathered

    def broadcast_object(self, item: T) -> T:  # noqa: D102
        box = [item]
        torch.distributed.broadcast_object_list(box, 0, group=self._gloo())
        return box[0]

    def any(self, *flags: bool) -> list[bool]:  # noqa: D102
        counts = torch.tensor(flags, dtype=torch.int32)
        torch.distributed.all_reduce(counts, group=self._gloo())
        return [count > 0 for count in counts.tolist()]

    def agreed(self, flag: bool) -> bool:  # noqa: D102
        return self.any(flag)[0] if self.collective_passes else flag

    def wait(self) -> None:  # noqa: D102
        torch.distributed.barrier(group=self._gloo())

    def _context_group(self, size: int) -> ContextGroup:
        """Return the group of this process. Collective."""
        neighbours = [range(first, first + size) for first in range(0, self.world_size, size)]
        return ContextGroup(self.world_rank % size, size, self._own_group(neighbours), self._begin_exchange)

    def _own_group(self, groups: Sequence[range]) -> torch.distributed.ProcessGroup:
        """Return this process's one of groups of ranks that exchange tensors of the device. Collective."""
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        # Every process takes part in making every group.
        made: list[torch.distributed.ProcessGroup] = [
            torch.distributed.new_group(ranks, backend=backend, timeout=EXCHANGE_TIMEOUT) for ranks in groups
        ]
        return next(group for ranks, group in zip(groups, made, strict=True) if self.world_rank in ranks)

    def _begin_exchange(self) -> None:
        """Note that the device may wait for other processes, all of which have just agreed to exchange something."""
        if self._watch is not None:
            self._watch.exchanging = True

    def _gloo(self) -> torch.distributed.ProcessGroup:
        """Return the processes over gloo; what the device was waited for is done."""
        if self._watch is not None:
            self._watch.exchanging = False
        return self._control

    def on_failure(  # noqa: D102
        self, told: Callable[[RankFailure], None], leave: Callable[[RankFailure], None]
    ) -> None:
        if self._watch is not None:
            self._watch.on_failure(told, leave)

    def failure(self, seconds: float) -> RankFailure | None:  # noqa: D102
        return None if self._watch is None else self._watch.failure(seconds)

    def fail(self, text: str, code: int) -> None:  # noqa: D102
        if self._watch is not None:
            self._watch.fail(text, code)

    def leave(self) -> None:  # noqa: D102
        self.wait()
        if self._watch is not None:
            self._watch.close()


def _launchers_store() -> dict[str, Any]:
    """Return how processes join by the store that their launcher has opened for them; nothing where it has none.

    torch would try to reach it for :data:`EXCHANGE_TIMEOUT`, in vain where the launcher was killed meanwhile.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True):
        return {}
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, is_master=False, timeout=REACH_TIMEOUT)
    store.set_timeout(EXCHANGE_TIMEOUT)  # which processes that import for longer than others may take
    return {"store": store, "rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"])}
