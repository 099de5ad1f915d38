"""Several processes that shard the weights of a model among them: sharded data parallelism.

Every process computes pairs of its own and gathers the weights of a layer while it computes. So passes of the model
are collective, and nobody may leave one alone: interruptions are agreed upon between micro-batches, and a process that
runs out of memory ends the run. Gradients of what is sharded are added up as the backward pass goes, those of the other
weights once a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from dpotrain.engine.parallel.protocol import Compute, Computing
from dpotrain.engine.parallel.replicated import Replicated
from dpotrain.engine.sharding.quantized_weights import check_round_trip
from dpotrain.engine.sharding.sharded_model import ShardedModel, shard_model
from dpotrain.engine.sharding.shards import is_sharded, local_shard
from dpotrain.engine.sharding.whole_states import WholeStates
from dpotrain.plugin.api import Adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: The attribute of a policy that says how it is sharded.
_SHARDED = "dpotrain_sharded"


class Sharded(WholeStates):
    """The processes of a launched run, which shard weights among them; see :class:`.protocol.Parallel`."""

    def __init__(self, joined: Replicated, group: int | None = None, *, offload: bool = False) -> None:
        """Share what ``joined`` has joined.

        ``group`` is how many processes, neighbours in rank, hold one copy of the weights; all of them unless given.
        With ``offload`` a GPU's shards are in the host's memory, where the optimizer updates them.
        """
        vars(self).update(vars(joined))  # the same processes, and the same watch over them
        self.shards_weights = self.collective_passes = True
        self.shards = group or self.world_size
        self._copies = self.world_size // self.shards
        self._mesh = self._hybrid_mesh() if self._copies > 1 else self._flat_mesh()
        self._group = self._mesh.get_group("shard")
        self.offloads = offload and self.device.type != "cpu"  # whose memory is the host's
        self._policy: ShardedModel | None = None
        self._locals: dict[nn.Parameter, nn.Parameter] = {}
        self._weights_of: dict[torch.Tensor, torch.Tensor] = {}
        if self.offloads:
            self.shards_on = torch.device("cpu")

    def _flat_mesh(self) -> DeviceMesh:
        """Return all processes in a row; they are joined with a timeout already."""
        return init_device_mesh(self.device.type, (self.world_size,), mesh_dim_names=("shard",))

    def _hybrid_mesh(self) -> DeviceMesh:
        """Return a row of processes for each copy of the weights. torch would have them wait for 10 minutes only."""
        ranks = torch.arange(self.world_size).view(self._copies, self.shards)
        columns = [range(first, self.world_size, self.shards) for first in range(self.shards)]
        rows = [range(first, first + self.shards) for first in range(0, self.world_size, self.shards)]
        groups = [self._own_group(columns), self._own_group(rows)]
        return DeviceMesh.from_group(groups, self.device.type, ranks, mesh_dim_names=("copy", "shard"))

    def shard(  # noqa: D102
        self,
        policy: nn.Module,
        layers: Sequence[nn.Module],
        *,
        bf16: bool,
        in_place: bool,
        fill: Callable[[], None] | None = None,
    ) -> None:
        self._begin_exchange()
        model = shard_model(
            policy, layers, self._mesh, bf16=bf16, in_place=in_place, offload=self.offloads, fill=fill
        )
        check_round_trip(self.gather_objects(model.altered))
        # With the model itself: a reference that has computed its log-probs goes before the policy comes.
        setattr(policy, _SHARDED, model)
        if any(weight.requires_grad for weight in policy.parameters()):
            self._policy = model

    def computing(self, policy: nn.Module) -> Computing:  # noqa: D102
        if (model := _sharded(policy)) is None:
            return super().computing(policy)
        root = model.root

        def run(compute: Compute) -> Any:
            self._begin_exchange()
            return root(compute)

        return run

    @contextmanager
    def gathered(self, policy: nn.Module) -> Iterator[None]:  # noqa: D102
        if (model := _sharded(policy)) is None:
            yield
            return
        self._begin_exchange()
        model.gather()
        try:
            yield
        finally:
            model.release()

    def gathered_bytes(self, policy: nn.Module) -> int:  # noqa: D102
        return 0 if (model := _sharded(policy)) is None else model.gathered_bytes

    def optimized(self, weights: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:  # noqa: D102
        return {name: self._local(weight) for name, weight in weights.items()}

    def place(  # noqa: D102
        self, scorer: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        # Shards were cut from the same files.
        self._equalize([weight for weight in scorer.parameters() if not is_sharded(weight)])
        return scorer, optimizer

    def begin_backward(self, *, last: bool) -> None:  # noqa: D102
        if self._copies > 1 and self._policy is not None:
            self._policy.add_over_copies(last)

    def exchange(self, weights: Sequence[nn.Parameter]) -> None:  # noqa: D102
        if whole := [weight for weight in weights if not is_sharded(weight)]:
            super().exchange(whole)
        for weight in filter(is_sharded, weights):
            # The backward passes have added them up.
            gradient, weight.grad = weight.grad, None
            self._local(weight).grad = None if gradient is None else local_shard(gradient)

    def clip(self, weights: Sequence[nn.Parameter], bound: float) -> torch.Tensor:  # noqa: D102
        self._begin_exchange()
        # Those with the same numbers on every process of a group count once.
        sharded = _norm([self._local(weight) for weight in weights if is_sharded(weight)]).to(self.device)
        squares = sharded.double().square()
        torch.distributed.all_reduce(squares, group=self._group)
        whole = _norm([weight for weight in weights if not is_sharded(weight)]).to(self.device)
        norm = (squares + whole.double().square()).sqrt().float()
        if not math.isinf(bound):
            nn.utils.clip_grads_with_norm_([self._local(weight) for weight in weights], bound, norm)
        return norm

    def _local(self, weight: nn.Parameter) -> nn.Parameter:
        """Return a parameter that is this process's shard of a weight, in its memory; the weight itself if it is whole.

        Optimizers know nothing of sharded weights, and need not: see :attr:`dpotrain.plugin.api.Optimizer.elementwise`.
        """
        if not is_sharded(weight):
            return weight
        if weight not in self._locals:
            local = self._locals[weight] = nn.Parameter(local_shard(weight))
            self._weights_of[local] = weight
        return self._locals[weight]

    def weight_of(self, parameter: torch.Tensor) -> torch.Tensor:  # noqa: D102
        return self._weights_of.get(parameter, parameter)

    @contextmanager
    def whole(self, adapter: Adapter, policy: PreTrainedModel) -> Iterator[None]:  # noqa: D102
        model = _sharded(policy)
        delattr(policy, _SHARDED)  # what is saved may be a copy
        try:
            with super().whole(adapter, policy):
                yield
        finally:
            setattr(policy, _SHARDED, model)


def _sharded(policy: nn.Module) -> ShardedModel | None:
    found: ShardedModel | None = getattr(policy, _SHARDED, None)
    return found


def _norm(weights: Sequence[nn.Parameter]) -> torch.Tensor:
    return nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
