"""Out of memory: the same pairs again, in smaller micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from dpotrain.data.batches.plan import Costs, MicroBatch
from dpotrain.engine.memory.device_memory import release_memory
from dpotrain.engine.parallel.protocol import Parallel


def smaller(microbatches: Sequence[MicroBatch], costs: Costs, budget: int) -> int:
    """Return half of the budget, or of what the largest micro-batch of several pairs took, whichever is less.

    At least one micro-batch must hold several pairs; the returned budget splits it.
    """
    largest = max(costs.of(pairs) for pairs in microbatches if len(pairs) > 1)
    return max(1, min(budget, largest) // 2)


def in_parts(pairs: MicroBatch, score: Callable[[MicroBatch], None], parallel: Parallel) -> None:
    """Call ``score`` with the pairs of a micro-batch, or where memory runs out, with each half of them.

    For passes without gradients. A micro-batch of one pair, or of none, is never split; nor any where passes are
    collective, as the other processes make no more of them.
    """
    try:
        score(pairs)
    except torch.OutOfMemoryError:
        if len(pairs) < 2 or parallel.collective_passes:
            raise
    else:
        return
    release_memory()  # after the exception that holds the tensors is gone
    middle = len(pairs) // 2
    in_parts(pairs[:middle], score, parallel)
    in_parts(pairs[middle:], score, parallel)
