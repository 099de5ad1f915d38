"""What is done where a device runs out of memory: the same pairs in smaller micro-batches."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence

import torch

from dpotrain.data.batches.plan import Costs, MicroBatch


def smaller(microbatches: Sequence[MicroBatch], costs: Costs, budget: int) -> int:
    """Return half of the budget, or of what the largest micro-batch of several pairs took, whichever is less.

    At least one micro-batch holds several pairs; cut with what is returned, that one is split.
    """
    largest = max(costs.of(pairs) for pairs in microbatches if len(pairs) > 1)
    return max(1, min(budget, largest) // 2)


def in_parts(pairs: MicroBatch, score: Callable[[MicroBatch], None]) -> None:
    """Call ``score`` with the pairs of a micro-batch, or where memory runs out, with each half of them.

    For passes without gradients. A micro-batch of one pair, or of none, is never split.
    """
    if _fits(pairs, score):
        return
    free_what_is_cached()
    middle = len(pairs) // 2
    in_parts(pairs[:middle], score)
    in_parts(pairs[middle:], score)


def _fits(pairs: MicroBatch, score: Callable[[MicroBatch], None]) -> bool:
    try:
        score(pairs)
    except torch.OutOfMemoryError:
        if len(pairs) < 2:
            raise
        return False
    return True


def free_what_is_cached() -> None:
    """Give back what a failed pass left behind; called after its exception, which holds its tensors, is gone."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
