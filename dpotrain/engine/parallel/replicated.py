"""Several processes, each with a whole copy of the model: data parallelism by accelerate and DDP."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn

from dpotrain.core.errors import RunError
from dpotrain.engine.parallel.one_process import OneProcess

T = TypeVar("T")


class Replicated(OneProcess):
    """A launched run (torchrun, accelerate launch); see :class:`.protocol.Parallel`.

    Every process has all weights, so the states of one are the states of all, and what :class:`OneProcess` does about
    them is right here, too.
    """

    def __init__(self) -> None:
        """Join the other processes.

        Raises:
            RunError: the launcher asks for weights to be sharded.
        """
        # The scorer casts by itself, and only CUDA and CPU are proven.
        self._accelerator = Accelerator(
            mixed_precision="no",
            cpu=not torch.cuda.is_available(),
            # No second copy of the gradients, and nothing to broadcast: no buffer changes.
            kwargs_handlers=[
                DistributedDataParallelKwargs(gradient_as_bucket_view=True, broadcast_buffers=False)
            ],
        )
        refuse_sharding(self._accelerator.distributed_type)
        super().__init__(self._accelerator.device)
        self.world_rank = self.data_rank = self._accelerator.process_index
        self.world_size = self.data_size = self._accelerator.num_processes
        self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", self.world_size))
        self.is_main = self._accelerator.is_main_process

    def place(  # noqa: D102
        self, scorer: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        placed: tuple[nn.Module, torch.optim.Optimizer] = self._accelerator.prepare(
            scorer, optimizer, device_placement=[False, False]
        )
        return placed

    def accumulating(self, scorer: nn.Module, *, last: bool) -> AbstractContextManager[None]:  # noqa: D102
        return nullcontext() if last else self._accelerator.no_sync(scorer)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:  # noqa: D102
        total: torch.Tensor = self._accelerator.reduce(tensor, "sum")
        return total

    def gather_objects(self, item: T) -> list[T]:  # noqa: D102
        gathered: list[T] = gather_object([item])
        return gathered

    def broadcast_object(self, item: T) -> T:  # noqa: D102
        (received,) = broadcast_object_list([item])
        return received  # type: ignore[no-any-return]

    def any(self, *flags: bool) -> list[bool]:  # noqa: D102
        counts = self.sum(torch.tensor(flags, dtype=torch.int32, device=self.device))
        return [count > 0 for count in counts.tolist()]

    def wait(self) -> None:  # noqa: D102
        self._accelerator.wait_for_everyone()

    def free(self) -> None:  # noqa: D102
        self._accelerator.free_memory()


def refuse_sharding(kind: DistributedType) -> None:
    """Raise a RunError where the launcher asks for weights to be sharded: that is not proven exact yet."""
    if kind in (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise RunError(
            f"the launcher asks for {kind.value}, and dpotrain does not shard weights.\n"
            "Launch plain data parallelism (accelerate launch --multi_gpu, or torchrun); where the weights "
            "do not fit one GPU, add an [adapter] and a [quantizer]."
        )
