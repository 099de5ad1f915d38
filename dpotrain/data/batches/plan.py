"""The batch plan: which pairs form step k, and their split over ranks and micro-batches.

Which pairs form a step depends on the mixture, the seed, the epoch and ``pairs_per_step`` alone. Everything here is a
pure function of its arguments, so a resumed run plans again and starts at step k.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from dpotrain.data.batches.mixture import Indices, Mixture
from dpotrain.data.tokens.tokenized import TokenizedPairs

MicroBatch: TypeAlias = Sequence[int]
"""Indices of the pairs of one forward and backward pass; where empty, the rank computes a filler pair."""


@dataclass(frozen=True, slots=True)
class Costs:
    """The cost of pairs in a micro-batch, in tokens that the model computes."""

    lengths: Indices
    """(pairs,) tokens of prompt, chosen and rejected, as :attr:`TokenizedPairs.lengths`."""
    longest: Indices
    """(pairs,) tokens of prompt plus the longer completion: what a padded row of the pair needs."""
    padded: bool = False
    """False: pairs lie end to end and cost their lengths. True: every completion is a row of the batch,
    as long as the micro-batch's longest."""

    @classmethod
    def of_data(cls, pairs: TokenizedPairs, *, padded: bool) -> Costs:
        """Return the costs of a data set's pairs."""
        return cls(pairs.lengths, pairs.longest_sequences, padded)

    @property
    def longest_pair(self) -> int:
        """Tokens computed for the most expensive pair in a micro-batch of its own."""
        return int(self.alone(np.arange(len(self.lengths))).max())

    def alone(self, pairs: Indices) -> Indices:
        """Tokens computed for each of these pairs in a micro-batch of its own."""
        return 2 * self.longest[pairs] if self.padded else self.lengths[pairs]

    def of(self, pairs: Sequence[int]) -> int:
        """Tokens computed for a micro-batch of these pairs."""
        if not len(pairs):
            return 0
        each = self.alone(np.asarray(pairs, np.int64))
        return len(pairs) * int(each.max()) if self.padded else int(each.sum())


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One optimizer step."""

    step: int
    """1 for the first."""
    epoch: int
    """0 for the first pass over the data."""
    pairs: Indices
    """The pairs of the step, in the epoch's order."""
    microbatches: list[list[MicroBatch]]
    """By rank; equally many on every rank, so that every rank takes part in every collective."""


def steps_of_run(pairs: int, pairs_per_step: int, epochs: int = 1, max_steps: int | None = None) -> int:
    """Return the steps of ``epochs`` passes over the pairs; no step holds pairs of two passes."""
    steps = epochs * -(-pairs // pairs_per_step)
    return steps if max_steps is None else min(steps, max_steps)


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """All steps of a run."""

    mixture: Mixture
    costs: Costs
    seed: int
    pairs_per_step: int
    tokens_per_microbatch: int
    epochs: int = 1
    max_steps: int | None = None
    ranks: int = 1
    shuffle: bool = True

    @property
    def pairs(self) -> int:
        """Pairs in one epoch."""
        return self.mixture.pairs

    @property
    def steps_per_epoch(self) -> int:
        """Steps in one epoch; the last may hold fewer pairs."""
        return steps_of_run(self.pairs, self.pairs_per_step)

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return steps_of_run(self.pairs, self.pairs_per_step, self.epochs, self.max_steps)

    def steps(self, after: int = 0) -> Iterator[StepPlan]:
        """Plan the steps that follow step ``after``."""
        order: Indices | None = None
        planned_epoch = -1
        for step in range(after + 1, self.total_steps + 1):
            epoch, position = divmod(step - 1, self.steps_per_epoch)
            if epoch != planned_epoch or order is None:
                order, planned_epoch = self.mixture.order(self.seed, epoch, self.shuffle), epoch
            first = position * self.pairs_per_step
            chosen = order[first : first + self.pairs_per_step]
            batches = make_microbatches(chosen, self.costs, self.ranks, self.tokens_per_microbatch)
            yield StepPlan(step, epoch, chosen, batches)

    def used(self) -> npt.NDArray[np.bool_]:
        """Return for each of the data's pairs whether a step of the run may need it, (pairs,)."""
        return self.mixture.used(self.seed, -(-self.total_steps // self.steps_per_epoch), self.shuffle)

    def epochs_done(self, step: int) -> float:
        """Return the passes over the data after ``step`` steps; 1.0 at the end of the first epoch."""
        epoch, position = divmod(step, self.steps_per_epoch)
        return epoch + min(position * self.pairs_per_step, self.pairs) / self.pairs


def make_microbatches(pairs: Indices, costs: Costs, ranks: int, budget: int) -> list[list[MicroBatch]]:
    """Balance pairs over ranks by tokens, then pack each rank's into micro-batches of at most ``budget`` tokens.

    A pair over the budget gets a micro-batch of its own. The result is indexed ``[rank][micro-batch]``; ranks that
    would have fewer micro-batches split theirs, or get empty ones.
    """
    packed = [pack_first_fit(mine, costs, budget) for mine in balance_ranks(pairs, costs, ranks)]
    most = max([1, *map(len, packed)])
    return [_split_to(batches, most) for batches in packed]


def balance_ranks(pairs: Indices, costs: Costs, ranks: int) -> list[list[int]]:
    """Assign pairs to ranks, longest first, each to the rank with the fewest tokens so far."""
    longest_first = _longest_first(pairs, costs)
    if ranks == 1:
        return [longest_first.tolist()]
    heap = [(0, rank) for rank in range(ranks)]
    by_rank: list[list[int]] = [[] for _ in range(ranks)]
    lengths = costs.lengths[longest_first].tolist()
    for pair, length in zip(longest_first.tolist(), lengths, strict=True):
        tokens, rank = heap[0]
        by_rank[rank].append(pair)
        heapq.heapreplace(heap, (tokens + length, rank))
    return by_rank


def pack_first_fit(pairs: Sequence[int], costs: Costs, budget: int) -> list[MicroBatch]:
    """Put pairs, longest first, into micro-batches of at most ``budget`` tokens by first-fit bin packing."""
    batches: list[list[int]] = []
    room: list[int] = []  # tokens left in each
    needs: list[
        int
    ] = []  # tokens that one more pair takes in each, where all are padded to its first, the longest
    sizes = costs.alone(np.asarray(pairs, np.int64)).tolist()
    for pair, size in zip(pairs, sizes, strict=True):
        for number, left in enumerate(room):
            need = needs[number] if costs.padded else size
            if need <= left:
                batches[number].append(pair)
                room[number] = left - need
                break
        else:
            batches.append([pair])
            room.append(budget - size)
            needs.append(size)
    return list(batches)


def batch_by_length(pairs: Indices, costs: Costs, ranks: int, budget: int) -> list[list[MicroBatch]]:
    """Split a whole data set for a pass without gradients: neighbours in length share a micro-batch.

    Linear in the pairs, where :func:`make_microbatches` tries all open micro-batches of a step. They are views.
    """
    longest_first = _longest_first(pairs, costs)
    order = longest_first.data
    sizes = costs.alone(longest_first)
    filled = np.cumsum(sizes)
    batches: list[MicroBatch] = []
    start = 0
    while start < len(order):
        if costs.padded:
            end = start + budget // int(sizes[start])
        else:
            before = int(filled[start]) - int(sizes[start])
            end = int(np.searchsorted(filled, before + budget, side="right"))
        end = min(max(end, start + 1), len(order))
        batches.append(order[start:end])
        start = end
    most = max(1, -(-len(batches) // ranks))
    return [_split_to(batches[rank::ranks], most) for rank in range(ranks)]


def _longest_first(pairs: Indices, costs: Costs) -> Indices:
    key = costs.longest if costs.padded else costs.lengths
    # Stable, so that ties keep the epoch's order and the result is a pure function of it.
    return pairs[np.argsort(-key[pairs], kind="stable")]


def _split_to(batches: list[MicroBatch], count: int) -> list[MicroBatch]:
    """Halve the fullest micro-batches until there are ``count``; add empty ones where nothing can be halved."""
    batches = list(batches) or [[]]
    while len(batches) < count:
        fullest = max(range(len(batches)), key=lambda number: len(batches[number]))
        whole = batches[fullest]
        if len(whole) > 1:
            batches[fullest] = whole[0::2]
        batches.append(whole[1::2] if len(whole) > 1 else [])
    return batches
