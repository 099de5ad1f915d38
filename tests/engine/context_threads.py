"""A context group whose processes are threads of this one: what they exchange, they put on a table.

Forward and backward passes run as in processes, since autograd computes a CPU's backward pass in the thread that asks
for it. Each thread needs a model of its own.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from dpotrain.engine.parallel.context import ContextGroup

T = TypeVar("T")

#: Seconds after which a thread waits for one that does not come.
HANGS = 120


class Table:
    """Where each of several threads puts something and takes what all have put there."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=HANGS)
        self._items: list[Any] = [None] * size

    def exchange(self, rank: int, item: T) -> list[T]:
        self._items[rank] = item
        self.barrier.wait()
        found = list(self._items)
        self.barrier.wait()  # nobody puts something new there before all have taken
        return found


@dataclass(frozen=True, slots=True)
class ThreadGroup(ContextGroup):
    table: Table

    def _swapped(self, parts: torch.Tensor) -> torch.Tensor:
        return torch.stack([each[self.rank] for each in self.table.exchange(self.rank, parts.clone())])

    def _summed(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.stack(self.table.exchange(self.rank, tensor.clone())).sum(0)


def in_threads(size: int, work: Callable[[ContextGroup], T]) -> list[T]:
    """Do the same work on every rank of a group, and return what came of it, by rank."""
    table = Table(size)

    def one(rank: int) -> T:
        try:
            return work(ThreadGroup(rank, size, None, lambda: None, table))
        except BaseException:
            table.barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(one, rank) for rank in range(size)]
    errors = [future.exception() for future in futures]
    for error in sorted(
        filter(None, errors), key=lambda error: isinstance(error, threading.BrokenBarrierError)
    ):
        raise error
    return [future.result() for future in futures]
