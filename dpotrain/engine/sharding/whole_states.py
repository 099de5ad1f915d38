"""Checkpoints and ``final/`` of sharded weights: what :class:`.protocol.Parallel` says of states, made whole.

Whatever the number of processes, the main process sees the tensors that a run of one process has, and every process
takes its own rows from those.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from dpotrain.engine.parallel.replicated import Replicated
from dpotrain.engine.sharding.filling import Devices, fill_from_files, fill_from_main
from dpotrain.engine.sharding.row_parts import RowParts
from dpotrain.engine.sharding.shards import local_shard
from dpotrain.engine.sharding.whole_weights import Sliced, cut, gather, gather_rows, own_rows, whole_on_main
from dpotrain.plugin.api import Adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Where an optimizer keeps a tensor: the number of the weight, and the tensor's name.
Place = tuple[int, str]


class WholeStates(Replicated):
    """Processes with sharded weights (:mod:`.row_parts`), as far as their states are concerned.

    The parameters of an optimizer are a process's shards of the weights.
    """

    copies_states = True
    shards_on: torch.device | None = None
    """Where the rows of sharded weights are, if not where the process computes."""

    def fill_from_files(self, model: nn.Module, weights: Mapping[str, Sliced]) -> None:
        """See :func:`.filling.fill_from_files`."""
        fill_from_files(model, weights, self._devices, self._gloo())

    def fill_from_main(self, model: nn.Module, held: Mapping[str, torch.Tensor] | None) -> None:
        """See :func:`.filling.fill_from_main`."""
        fill_from_main(model, held, self._devices, self._gloo())

    @property
    def _devices(self) -> Devices:
        return Devices(whole=self.device, shards=self.shards_on or self.device)

    def weight_of(self, parameter: torch.Tensor) -> torch.Tensor:
        """Return the weight of which an optimizer's parameter is this process's shard; a whole one is itself."""
        raise NotImplementedError

    def whole_shapes(self, optimizer: torch.optim.Optimizer) -> list[torch.Size]:  # noqa: D102
        return [weight.shape for weight in self._weights(optimizer)]

    def trained_state(self, adapter: Adapter, policy: PreTrainedModel) -> Mapping[str, torch.Tensor]:  # noqa: D102
        whole = {name: gather(tensor, self._gloo()) for name, tensor in adapter.state(policy).items()}
        return {name: tensor for name, tensor in whole.items() if tensor is not None}

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> Mapping[str, Any]:  # noqa: D102
        state, weights = optimizer.state_dict(), self._weights(optimizer)
        parts: dict[Place, torch.Tensor] = {
            (number, name): value
            for number, values in state["state"].items()
            for name, value in values.items()
            if _is_laid_out(value, weights[number], local_shard(weights[number]).shape)
        }
        gathered: dict[Place, torch.Tensor | None] = {}
        # The main process's rows come first, so that it has a state of every weight of which any process has one.
        for place in self.broadcast_object(list(parts)):
            weight = weights[place[0]]
            assert isinstance(weight, DTensor)
            local = parts.get(place, local_shard(weight))  # without rows, an optimizer may keep nothing
            gathered[place] = gather_rows(local, RowParts.of(weight), self._gloo())
        if not self.is_main:
            return {}
        whole = {
            number: {name: gathered.get((number, name), _copied(value)) for name, value in values.items()}
            for number, values in state["state"].items()
        }
        return {**state, "state": whole}

    def load_trained(  # noqa: D102
        self, adapter: Adapter, policy: PreTrainedModel, trained: Mapping[str, torch.Tensor]
    ) -> None:
        present = adapter.state(policy)
        laid_out = {
            name: cut(tensor, like)
            if isinstance(like := present.get(name), DTensor) and like.shape == tensor.shape
            else tensor
            for name, tensor in trained.items()
        }
        adapter.load_state(policy, laid_out)

    def load_optimizer(self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:  # noqa: D102
        weights = self._weights(optimizer)
        own = {
            number: {
                name: own_rows(value, weights[number]).clone()
                if _is_laid_out(value, weights[number], weights[number].shape)
                else value
                for name, value in values.items()
            }
            for number, values in state["state"].items()
        }
        optimizer.load_state_dict({**state, "state": own})

    @contextmanager
    def whole(self, adapter: Adapter, policy: PreTrainedModel) -> Iterator[None]:  # noqa: D102
        saved = {
            name
            for name, weight in policy.named_parameters()
            if weight.requires_grad or adapter.saves_whole_model
        }
        with whole_on_main(policy, saved, self._gloo()):
            if self.is_main:
                with _plain(policy):
                    yield
            else:
                yield

    def _weights(self, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
        """Return the weights in the order in which an optimizer's state numbers them."""
        return [self.weight_of(each) for group in optimizer.param_groups for each in group["params"]]


def _is_laid_out(value: Any, weight: torch.Tensor, shape: torch.Size) -> bool:
    """Whether a value of an optimizer's state has rows as a sharded weight has, ``shape`` being the weight's."""
    return isinstance(value, torch.Tensor) and isinstance(weight, DTensor) and value.shape == shape


def _copied(value: Any) -> Any:
    return value.detach().to("cpu", copy=True) if isinstance(value, torch.Tensor) else value


@contextmanager
def _plain(model: nn.Module) -> Iterator[None]:
    """Take from modules what ``fully_shard`` gave them: they can be copied then, and compute by themselves."""
    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    kept = [(module, type(module), dict(vars(module))) for module in sharded]
    try:
        for module in sharded:
            state = module._get_fsdp_state()
            module.__class__ = type(module).__bases__[1]
            for name, value in vars(module).items():
                if isinstance(value, dict):  # hooks, and where torch keeps the state
                    theirs = [key for key, each in value.items() if _is_of(state, each)]
                    if theirs:
                        others = ((key, each) for key, each in value.items() if key not in theirs)
                        vars(module)[name] = type(value)(others)
        yield
    finally:
        for module, found, attributes in kept:
            module.__class__ = found
            vars(module).update(attributes)


def _is_of(state: object, value: object) -> bool:
    return value is state or getattr(value, "__self__", None) is state
