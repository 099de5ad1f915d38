"""What the collectives of a step carry, counted where torch hands them to the backend.

Collectives are operators of torch, and a dispatch mode sees those of its thread with their tensors, in the forward and
the backward pass, whoever calls them. What a rank of n sends for each follows from the size of the tensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.distributed import ProcessGroup
from torch.utils._python_dispatch import TorchDispatchMode


class Counting(TorchDispatchMode):
    """Adds up the bytes that this process sends, by collective and the number of ranks that take part."""

    def __init__(self, between_hosts: ProcessGroup) -> None:
        """Count what goes over the group ``between_hosts`` apart: it is not sent by devices."""
        super().__init__()
        self._between_hosts = between_hosts.group_name
        self.sent: dict[str, float] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            name, group = func.overloadpacket.__name__, _group(args)
            kind = "between hosts" if group.group_name == self._between_hosts else f"{name} of {group.size()}"
            self.sent[kind] = self.sent.get(kind, 0.0) + _sent(name, list(_tensors(args)), group.size())
        return func(*args, **(kwargs or {}))


def _sent(name: str, tensors: list[torch.Tensor], ranks: int) -> float:
    """Return the bytes that a rank sends by a ring, or by an exchange of all with all."""
    others = (ranks - 1) / ranks
    match name:
        case "_allgather_base_":  # of what is received and what is sent
            return others * tensors[0].nbytes
        case "_reduce_scatter_base_" | "alltoall_base_":  # likewise
            return others * tensors[1].nbytes
        case "allreduce_":
            return 2 * others * sum(each.nbytes for each in tensors)
    raise NotImplementedError(f"what c10d.{name} sends")


def _group(arguments: Any) -> ProcessGroup:
    (found,) = (each for each in arguments if isinstance(each, torch.ScriptObject) and _is_group(each))
    return ProcessGroup.unbox(found)


def _is_group(each: torch.ScriptObject) -> bool:
    return str(each._type()).endswith("ProcessGroup")


def _tensors(arguments: Any) -> Iterator[torch.Tensor]:
    for each in arguments:
        if isinstance(each, torch.Tensor):
            yield each
        elif isinstance(each, list):
            yield from _tensors(each)
