"""One process: nothing to exchange."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from dpotrain.engine.parallel.context import ContextGroup
from dpotrain.engine.parallel.failure import RankFailure
from dpotrain.engine.parallel.protocol import Compute, Computing
from dpotrain.plugin.api import Adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

T = TypeVar("T")


class OneProcess:
    """A run of one process, on the first CUDA device where there is one; see :class:`.protocol.Parallel`."""

    world_rank = data_rank = 0
    world_size = data_size = local_size = shards = 1
    is_main = first_of_data_rank = True
    context: ContextGroup | None = None
    copies_states = shards_weights = collective_passes = offloads = False

    def __init__(self, device: torch.device | None = None) -> None:
        found = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
        self.device = found if device is None else device

    def shard(  # noqa: D102
        self,
        policy: nn.Module,
        layers: Sequence[nn.Module],
        *,
        bf16: bool,
        in_place: bool,
        fill: Callable[[], None] | None = None,
    ) -> None:
        return

    def computing(self, policy: nn.Module) -> Computing:  # noqa: D102
        return _call

    def gathered(self, policy: nn.Module) -> AbstractContextManager[None]:  # noqa: D102
        return nullcontext()

    def gathered_bytes(self, policy: nn.Module) -> int:  # noqa: D102
        return 0

    def optimized(self, weights: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:  # noqa: D102
        return dict(weights)

    def begin_backward(self, *, last: bool) -> None:  # noqa: D102
        return

    def agreed(self, flag: bool) -> bool:  # noqa: D102
        return flag

    def place(  # noqa: D102
        self, scorer: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        return scorer, optimizer

    def exchange(self, weights: Sequence[nn.Parameter]) -> None:  # noqa: D102
        return

    def clip(self, weights: Sequence[nn.Parameter], bound: float) -> torch.Tensor:  # noqa: D102
        if math.isinf(bound):  # clip_grad_norm_ would write every gradient again
            return nn.utils.get_total_norm([each.grad for each in weights if each.grad is not None])
        return nn.utils.clip_grad_norm_(weights, bound)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:  # noqa: D102
        return tensor

    def gather_objects(self, item: T) -> list[T]:  # noqa: D102
        return [item]

    def broadcast_object(self, item: T) -> T:  # noqa: D102
        return item

    def any(self, *flags: bool) -> list[bool]:  # noqa: D102
        return list(flags)

    def wait(self) -> None:  # noqa: D102
        return

    def trained_state(self, adapter: Adapter, policy: PreTrainedModel) -> Mapping[str, torch.Tensor]:  # noqa: D102
        return adapter.state(policy)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> Mapping[str, Any]:  # noqa: D102
        return optimizer.state_dict()

    def load_trained(  # noqa: D102
        self, adapter: Adapter, policy: PreTrainedModel, trained: Mapping[str, torch.Tensor]
    ) -> None:
        adapter.load_state(policy, trained)

    def load_optimizer(self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:  # noqa: D102
        optimizer.load_state_dict(dict(state))

    def whole_shapes(self, optimizer: torch.optim.Optimizer) -> list[torch.Size]:  # noqa: D102
        return [weight.shape for group in optimizer.param_groups for weight in group["params"]]

    def whole(self, adapter: Adapter, policy: PreTrainedModel) -> AbstractContextManager[None]:  # noqa: D102
        return nullcontext()

    def on_failure(  # noqa: D102
        self, told: Callable[[RankFailure], None], leave: Callable[[RankFailure], None]
    ) -> None:
        return

    def failure(self, seconds: float) -> RankFailure | None:  # noqa: D102
        return None

    def fail(self, text: str, code: int) -> None:  # noqa: D102
        return

    def leave(self) -> None:  # noqa: D102
        return


def _call(compute: Compute) -> Any:
    return compute()
