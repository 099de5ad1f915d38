"""A model whose matrices are sharded over processes, by torch's ``fully_shard``, and gathered where they compute.

Each decoder layer gathers its own matrices for its forward and its backward pass. What is outside the layers
(embedding, head) is gathered by the :class:`Root`, inside which everything with gradients computes.

Matrices, and weights of more dimensions, are sharded by their rows. Weights of one dimension (norms, biases) are small:
every process holds them, and computes with them in their own dtype.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)

from dpotrain.engine.parallel.protocol import Compute
from dpotrain.engine.sharding.quantized_weights import keep_kind, quantized_weights
from dpotrain.engine.sharding.shards import gather_in_bfloat16, rounds_anyway


class Root(nn.Module):
    """Computes anything with a policy inside the hooks that gather what is outside its layers."""

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, compute: Compute) -> Any:
        """Return what ``compute`` returns, a tensor or several; they are no views of others."""
        found = compute()
        return tuple(map(_own, found)) if isinstance(found, tuple) else _own(found)


def _own(found: Any) -> Any:
    """Return a tensor that is no view: the hooks that the backward pass begins with would be lost on one."""
    return found.clone() if isinstance(found, torch.Tensor) and found._base is not None else found


@dataclass(frozen=True, slots=True)
class ShardedModel:
    """A sharded model."""

    root: Root
    gathered_bytes: int
    """What whole weights and their gradients take at most at once, beside the shards: those outside the layers, of the
    layer that computes, and of the next one, which is gathered meanwhile."""
    altered: tuple[str, ...] = ()
    """Quantized weights that this process does not gather as they were."""

    def gather(self) -> None:
        """Hold what is outside the layers whole until :meth:`release`. Collective."""
        _fsdp(self.root).unshard()

    def release(self) -> None:
        """Hold only shards again."""
        _fsdp(self.root).reshard()

    def add_over_copies(self, wanted: bool) -> None:
        """Have the backward passes to come add their gradients over the groups that hold a copy each, or not yet."""
        _fsdp(self.root).set_requires_all_reduce(wanted)


def shard_model(
    policy: nn.Module,
    layers: Sequence[nn.Module],
    mesh: DeviceMesh,
    *,
    bf16: bool,
    in_place: bool,
    offload: bool,
    fill: Callable[[], None] | None = None,
) -> ShardedModel:
    """Shard a model's weights over the last dimension of ``mesh``, in place; a first one has copies. Collective.

    ``layers`` are its decoder layers, ``bf16`` is whether it computes under bfloat16 autocast: layers are then gathered
    in bfloat16 where autocast would round their matrices anyway. Quantized weights are gathered byte by byte, and each
    is compared with what it was. Gradients are added up in at least float32. Of a model that is not trained
    ``in_place`` the trained weights are an adapter's, and stay whole. With ``offload`` the shards are in the host's
    memory. Of a model on the meta device ``fill`` gives the shards their numbers.
    """
    root = Root(policy)
    units: list[nn.Module] = [*layers, root]
    # Nothing here keeps a whole weight that is to be sharded: they are freed unit by unit.
    whole, settings = settings_of(units, bf16, in_place)
    host: OffloadPolicy = CPUOffloadPolicy() if offload else OffloadPolicy()
    altered: list[str] = []
    for unit, (precision, _) in zip(units, settings, strict=True):
        quantized = quantized_weights(policy, unit, whole)
        # Gathered again for the backward pass: no weight is whole while nothing computes with it.
        fully_shard(
            unit,
            mesh=mesh,
            reshard_after_forward=True,
            mp_policy=precision,
            offload_policy=host,
            ignored_params=whole,
        )
        _add_up(_fsdp(unit))
        if precision.param_dtype is not None:
            gather_in_bfloat16(unit)
        if quantized:
            altered += keep_kind(unit, quantized)
            del quantized  # the whole of this unit's, before the next one's
    if fill is not None:
        fill()
    with torch.no_grad():
        root(lambda: None)  # the first module that computes becomes the root
    *sizes, outside = (size for _, size in settings)
    return ShardedModel(root, outside + sum(sorted(sizes)[-2:]), tuple(altered))


def settings_of(
    units: Sequence[nn.Module], bf16: bool, in_place: bool
) -> tuple[set[nn.Parameter], list[tuple[MixedPrecisionPolicy, int]]]:
    """Return the weights that stay whole, and of each unit in which dtypes it computes and its gathered bytes."""
    of_units = _of_units(units)
    sharded = _to_shard(of_units, in_place)
    for weight in sharded:
        if not weight.is_contiguous():
            weight.data = weight.data.contiguous()
    settings = []
    for unit, weights in zip(units, of_units, strict=True):
        own = [weight for weight in weights if weight in sharded]
        # Outside the layers the dtype of what is computed follows that of the weights.
        low = bf16 and unit is not units[-1] and rounds_anyway(unit, sharded)
        precision = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if low else None,
            reduce_dtype=_reduced_in(own),
            cast_forward_inputs=False,
        )
        settings.append((precision, _gathered_bytes(own, low)))
    whole = {weight for weights in of_units for weight in weights if weight not in sharded}
    return whole, settings


def _add_up(unit: FSDPModule) -> None:
    """Have gradients be sums over processes: what is summed is already divided by the pairs of the step."""
    unit.set_gradient_divide_factor(1.0)
    unit.set_force_sum_reduction_for_comms(True)  # gloo has no other
    # An expert that no token of this process meets still takes part in what all processes add up.
    if (
        unused := getattr(unit, "set_reduce_scatter_unused_params", None)
    ) is not None:  # torch 2.13 and later
        unused(True, recurse=False)


def _to_shard(of_units: Sequence[Sequence[nn.Parameter]], in_place: bool) -> set[nn.Parameter]:
    """Return the weights to shard: matrices of one unit alone, and of the trained ones those of one dtype."""
    times = Counter(weight for weights in of_units for weight in weights)
    found: set[nn.Parameter] = set()
    for weights in of_units:
        matrices = [
            weight
            for weight in weights
            if weight.ndim >= 2 and times[weight] == 1 and (in_place or not weight.requires_grad)
        ]
        numbers: Counter[torch.dtype] = Counter()
        for weight in matrices:
            if weight.requires_grad:
                numbers[weight.dtype] += weight.numel()
        # Gradients of a unit are added up together, so in one dtype.
        usual = max(numbers, key=lambda dtype: numbers[dtype], default=None)
        found.update(each for each in matrices if not each.requires_grad or each.dtype == usual)
    return found


def _of_units(units: Sequence[nn.Module]) -> list[list[nn.Parameter]]:
    """Return the weights of each unit; the last has those of all modules that are in none of the others."""
    *layers, root = units
    inside = {module for layer in layers for module in layer.modules()}
    outside = [module for module in root.modules() if module not in inside]
    others = {weight: None for module in outside for weight in module.parameters(recurse=False)}
    return [*(list(layer.parameters()) for layer in layers), list(others)]


def _reduced_in(weights: Iterable[nn.Parameter]) -> torch.dtype:
    """Return the dtype in which the gradients of a unit are added up."""
    trained = [weight.dtype for weight in weights if weight.requires_grad]
    return torch.promote_types(trained[0], torch.float32) if trained else torch.float32


def _gathered_bytes(weights: Iterable[nn.Parameter], low: bool) -> int:
    """Return what a unit's whole weights take, with their gradients and these once more to be added up in float32."""
    total = 0
    for weight in weights:
        each = 2 if low else weight.element_size()
        total += weight.numel() * (each + (each + 4) * weight.requires_grad)
    return total


def _fsdp(module: nn.Module) -> FSDPModule:
    assert isinstance(module, FSDPModule)
    return module
