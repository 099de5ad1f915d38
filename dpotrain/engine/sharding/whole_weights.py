"""Sharded weights made whole, and whole ones cut, one tensor at a time.

The main process gathers into its host memory; every other process needs memory for its own rows of one tensor. A
process that can read the whole tensor, as one mapped from a file, cuts out its rows and asks nobody.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed
from torch import nn
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor

from dpotrain.engine.sharding.row_parts import RowParts
from dpotrain.engine.sharding.shards import local_shard

#: World rank of the process that gathers.
MAIN = 0


class Sliced(Protocol):
    """A whole tensor that may not have been read yet: a tensor, or what ``safe_open(…).get_slice`` returns."""

    def __getitem__(self, index: Any, /) -> torch.Tensor:
        """Return some rows, by a slice, or with ``...`` the whole."""


@dataclass(frozen=True, slots=True)
class Rounded:
    """A whole tensor, rounded to a dtype as it is read: what is held in more bits later has those numbers."""

    whole: Sliced
    dtype: torch.dtype

    def __getitem__(self, index: Any, /) -> torch.Tensor:
        return self.whole[index].to(self.dtype)


def gather(tensor: torch.Tensor, group: ProcessGroup) -> torch.Tensor | None:
    """Return a weight, whole, as a copy in host memory; None on other processes than the main one. Collective.

    ``group`` is of all processes and takes tensors in host memory (gloo).
    """
    if isinstance(tensor, DTensor):
        return gather_rows(local_shard(tensor), RowParts.of(tensor), group)
    return tensor.detach().to("cpu", copy=True) if torch.distributed.get_rank() == MAIN else None


def gather_rows(local: torch.Tensor, parts: RowParts, group: ProcessGroup) -> torch.Tensor | None:
    """Return the whole of what each process has its own rows of; see :func:`gather`."""
    rank, holders = torch.distributed.get_rank(), parts.holders(MAIN)
    if rank != MAIN:
        if rank in dict(holders):
            torch.distributed.send(local.to("cpu").contiguous(), MAIN, group=group)
        return None
    whole = torch.empty((parts.rows, *local.shape[1:]), dtype=local.dtype)
    arriving = []
    for holder, rows in holders:
        if holder == MAIN:
            whole[rows] = local
        else:
            arriving.append(torch.distributed.irecv(whole[rows], holder, group=group))
    _finish(arriving)
    return whole


@torch.no_grad()
def scatter(tensor: torch.Tensor, whole: torch.Tensor | None, group: ProcessGroup) -> None:
    """Fill a weight on every process from one that the main process has whole, in host memory. Collective.

    Both are of one dtype. ``whole`` is None on the other processes.
    """
    local = local_shard(tensor)
    places: dict[int, Any] = dict.fromkeys(
        range(torch.distributed.get_world_size() * bool(local.numel())), ...
    )
    if isinstance(tensor, DTensor):
        places = dict(RowParts.of(tensor).everyone())
    if whole is None:
        if torch.distributed.get_rank() in places:
            arrived = torch.empty(local.shape, dtype=local.dtype)
            torch.distributed.recv(arrived, MAIN, group=group)
            local.copy_(arrived)
        return
    leaving = [
        torch.distributed.isend(whole[rows].contiguous(), holder, group=group)
        for holder, rows in places.items()
        if holder != MAIN
    ]
    if MAIN in places:
        local.copy_(whole[places[MAIN]])
    _finish(leaving)


@torch.no_grad()
def fill(tensor: torch.Tensor, whole: Sliced) -> None:
    """Copy a whole weight, which every process can read, into a weight: of a sharded one the process's own rows."""
    local_shard(tensor).copy_(own_rows(whole, tensor))


def own_rows(whole: Sliced, like: torch.Tensor) -> torch.Tensor:
    """Return this process's rows of a whole tensor that is laid out as ``like``; the whole, where that is whole."""
    if not isinstance(like, DTensor):
        return whole[...]
    own = RowParts.of(like).own
    # Slices of a file refuse to be empty.
    return whole[own] if own.start < own.stop else local_shard(like)


def cut(whole: torch.Tensor, like: DTensor) -> DTensor:
    """Return a whole tensor laid out, and on the device, as ``like`` is; no process is asked for anything."""
    rows = own_rows(whole, like).to(local_shard(like).device).contiguous()
    return DTensor.from_local(
        rows, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


@contextmanager
def whole_on_main(model: nn.Module, names: Collection[str], group: ProcessGroup) -> Iterator[None]:
    """Put whole weights into a model on the main process, for those of these names that are sharded. Collective.

    On the other processes nothing changes. No process may compute with the model inside the context.
    """
    sharded = [
        weight for name, weight in model.named_parameters() if name in names and isinstance(weight, DTensor)
    ]
    places = _places(model)
    try:
        for weight in sharded:
            whole = gather(weight, group)
            if whole is not None:
                _put(places[id(weight)], nn.Parameter(whole, requires_grad=weight.requires_grad))
        yield
    finally:
        for weight in sharded:
            _put(places[id(weight)], weight)


def _places(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Return the modules and names under which each parameter of a model stands, by the parameter's ``id``."""
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False, remove_duplicate=False):
            places.setdefault(id(weight), []).append((module, name))
    return places


def _put(places: list[tuple[nn.Module, str]], weight: nn.Parameter) -> None:
    for module, name in places:
        module._parameters[name] = weight


def _finish(works: list[torch.distributed.Work | None]) -> None:
    for work in works:
        if work is not None:
            work.wait()
