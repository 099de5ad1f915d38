"""Numbers for a model on the meta device, after its weights were sharded: no process ever needs memory for all of them.

They come from files, of which every process reads its own rows, or from the main process, which has the whole model in
host memory and sends every other one its rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import nn
from torch.distributed import ProcessGroup

from dpotrain.core.errors import RunError
from dpotrain.engine.sharding.shards import is_sharded, local_shard
from dpotrain.engine.sharding.whole_weights import MAIN, Sliced, fill, scatter

#: Names that an error shows at most.
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Devices:
    """Where a process has a sharded model."""

    whole: torch.device
    """Weights that are not sharded, and buffers."""
    shards: torch.device
    """Its rows of the others."""


def fill_from_files(
    model: nn.Module, weights: Mapping[str, Sliced], devices: Devices, group: ProcessGroup
) -> None:
    """Read this process's rows of every parameter. Collective.

    Args:
        model: sharded, its parameters on the meta device, its buffers with their numbers.
        weights: whole parameters by name, of one that has several names by any (see
            :class:`dpotrain.plugin.api.OpenedModel`).
        devices: where all goes.
        group: all processes, over gloo.

    Raises:
        RunError: a weight holds numbers that are not finite, on any process.
    """
    _make_room(model, devices)
    names: dict[int, str] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        if name in weights:
            names.setdefault(id(weight), name)
    broken = []
    for weight in model.parameters():
        name = names[id(weight)]
        fill(weight, weights[name])
        local = local_shard(weight)
        if local.is_floating_point() and not local.isfinite().all():
            broken.append(name)
    found: list[list[str]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(found, broken, group=group)
    if broken := sorted({name for each in found for name in each}):
        raise RunError(
            f"{len(broken)} of the weights in {getattr(model, 'name_or_path', 'the model')} hold numbers that are not "
            f"finite ({_some(broken)}); fetch the model again, or save it anew in more bits"
        )


def fill_from_main(
    model: nn.Module, held: Mapping[str, torch.Tensor] | None, devices: Devices, group: ProcessGroup
) -> None:
    """Send every process its rows of every parameter, and all buffers. Collective.

    Args:
        model: sharded, its parameters on the meta device; so are its buffers on other processes than the main one.
        held: on the main process what :func:`take_numbers` returned; None elsewhere.
        devices: where all goes.
        group: all processes, over gloo.

    Raises:
        RunError: the model of this process is another one than the main process's.
    """
    box: list[Any] = [None if held is None else {name: _described(each) for name, each in held.items()}]
    torch.distributed.broadcast_object_list(box, MAIN, group=group)
    here, there = {name: _described(each) for name, each in _tensors(model)}, box[0]
    if odd := sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name)):
        raise RunError(
            f"the model loader's blueprint differs from the model that it loads in {len(odd)} weights or buffers "
            f"({_some(odd)}).\nTrain without sharding: --set 'parallel.shard=\"none\"'"
        )
    _make_room(model, devices)
    for name, tensor in _tensors(model):
        scatter(tensor, None if held is None else held[name], group)


def take_numbers(model: nn.Module) -> dict[str, torch.Tensor]:
    """Put the parameters of a model on the meta device; return what they and the buffers held, by name."""
    held = {name: tensor.data for name, tensor in _tensors(model)}
    for weight in model.parameters():
        _swap(weight, torch.empty_like(weight, device="meta"))
    return held


def _make_room(model: nn.Module, devices: Devices) -> None:
    """Give parameters and buffers that are on the meta device memory, and move the other buffers."""
    for weight in model.parameters():
        device = devices.shards if is_sharded(weight) else devices.whole
        _swap(weight, torch.empty_like(weight, device=device))
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            empty = buffer.is_meta
            module._buffers[name] = (
                torch.empty_like(buffer, device=devices.whole) if empty else buffer.to(devices.whole)
            )


def _swap(weight: nn.Parameter, tensor: torch.Tensor) -> None:
    """Put another tensor into a parameter, which stays the same object for whoever refers to it."""
    parameter = nn.Parameter(tensor, requires_grad=weight.requires_grad)
    torch.utils.swap_tensors(weight, parameter)  # type: ignore[no-untyped-call]


def _tensors(model: nn.Module) -> Iterable[tuple[str, torch.Tensor]]:
    """Yield parameters, each once, and buffers, one of two modules twice, by name."""
    yield from model.named_parameters()
    yield from model.named_buffers(remove_duplicate=False)


def _described(tensor: torch.Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
