"""Which pairs an epoch takes of each source, and in which order: a pure function of sizes, amounts and the seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from dpotrain.core.errors import DataError
from dpotrain.core.formats import share
from dpotrain.recipe.mixture import SourceTable

Indices: TypeAlias = npt.NDArray[np.int64]

#: What the random orders of a source's pairs are drawn with besides seed, source and pass, so that none is an epoch's.
_OF_A_SOURCE = 1


@dataclass(frozen=True, slots=True)
class Mixture:
    """How many of each source's pairs an epoch takes; the pairs lie one source after the other."""

    sizes: tuple[int, ...]
    """Training pairs that there are of each source."""
    counts: tuple[int, ...]
    """Of these, how many an epoch takes: more than there are where a source repeats."""
    names: tuple[str, ...] = ("",)
    """What the sources are called; empty for a single one."""

    @classmethod
    def single(cls, pairs: int) -> Mixture:
        """Return all pairs of one source."""
        return cls((pairs,), (pairs,))

    @classmethod
    def of(cls, sizes: Sequence[int], tables: Sequence[SourceTable]) -> Mixture:
        """Return what a recipe's tables make of sources of these sizes, none of them 0.

        Raises:
            DataError: a table takes more of its source than there is, without ``repeat``, or nothing at all.
        """
        scale = _pairs_per_weight(sizes, tables)
        counts = [_amount(size, table, scale) for size, table in zip(sizes, tables, strict=True)]
        for number, (size, count, table) in enumerate(zip(sizes, counts, tables, strict=True)):
            _check(number, size, count, table)
        return cls(tuple(sizes), tuple(counts), tuple(table.called for table in tables))

    @property
    def pairs(self) -> int:
        """Pairs of an epoch."""
        return sum(self.counts)

    @property
    def is_of_several(self) -> bool:
        """Whether there are several sources."""
        return len(self.sizes) > 1

    @property
    def takes_all(self) -> bool:
        """Whether every epoch takes every pair once."""
        return self.sizes == self.counts

    def lines(self) -> list[str]:
        """Return what an epoch takes of each source, a line each; none for a single one."""
        return [
            f"{name}: {count} of {size} training pairs{_each(count, size)}, "
            f"{share(count / max(1, self.pairs))} of an epoch"
            for name, size, count in zip(self.names, self.sizes, self.counts, strict=True)
            if self.is_of_several
        ]

    def as_json(self) -> dict[str, dict[str, int]]:
        """Return plain data: of each source the pairs that there are, and those of an epoch."""
        return {
            name: {"pairs": size, "of_an_epoch": count}
            for name, size, count in zip(self.names, self.sizes, self.counts, strict=True)
        }

    @classmethod
    def restored(cls, plain: Mapping[str, Mapping[str, int]]) -> Mixture:
        """Undo :meth:`as_json`."""
        sizes, counts = (tuple(each[key] for each in plain.values()) for key in ("pairs", "of_an_epoch"))
        return cls(sizes, counts, tuple(plain))

    def order(self, seed: int, epoch: int, shuffle: bool) -> Indices:
        """Return (pairs,) the pairs of an epoch in the order in which they are trained on.

        Shuffled they are a permutation by (seed, epoch) alone. Otherwise one source follows the other, each in the
        order of its rows. Where an epoch takes a part of a source, it goes on where the epoch before stopped.
        """
        chosen = np.concatenate(
            [self._of_source(source, seed, epoch, shuffle) for source in range(len(self.sizes))]
        )
        if not shuffle:
            return chosen
        order = np.random.Generator(np.random.PCG64([seed, epoch])).permutation(len(chosen))
        return chosen[order.astype(np.int64)]

    def used(self, seed: int, epochs: int, shuffle: bool) -> npt.NDArray[np.bool_]:
        """Return for each of all pairs whether one of the first ``epochs`` epochs takes it."""
        used = np.full(sum(self.sizes), self.takes_all and epochs > 0)
        if not self.takes_all:
            for epoch in range(epochs):
                used[self.order(seed, epoch, shuffle)] = True
        return used

    def _of_source(self, source: int, seed: int, epoch: int, shuffle: bool) -> Indices:
        size, count = self.sizes[source], self.counts[source]
        first = sum(self.sizes[:source])
        if size == count:
            return np.arange(first, first + size, dtype=np.int64)
        start, end = epoch * count, (epoch + 1) * count
        passes = range(start // size, -(-end // size))
        drawn = np.concatenate([self._pass(source, seed, each, shuffle) for each in passes])
        skipped = passes.start * size
        return first + drawn[start - skipped : end - skipped]

    def _pass(self, source: int, seed: int, number: int, shuffle: bool) -> Indices:
        """Return the order in which the pairs of a source come when they come for the ``number``-th time."""
        size = self.sizes[source]
        if not shuffle:
            return np.arange(size, dtype=np.int64)
        drawn = np.random.Generator(np.random.PCG64([seed, number, source, _OF_A_SOURCE]))
        return drawn.permutation(size).astype(np.int64)


def _each(count: int, size: int) -> str:
    return f", each {count / size:.2g} times" if count > size > 0 else ""


def _pairs_per_weight(sizes: Sequence[int], tables: Sequence[SourceTable]) -> float:
    """Return how many pairs a weight of 1 stands for: until a source that does not repeat is used up.

    Where all of them repeat, until all have come.
    """
    each = [
        (size / table.weight, table.repeat)
        for size, table in zip(sizes, tables, strict=True)
        if table.weight is not None
    ]
    once = [scale for scale, repeat in each if not repeat]
    return min(once) if once else max((scale for scale, _ in each), default=0.0)


def _amount(size: int, table: SourceTable, scale: float) -> int:
    if table.pairs is not None:
        return table.pairs
    if table.fraction is not None:
        return _rounded(table.fraction * size)
    if table.weight is not None:
        return _rounded(table.weight * scale)
    return size


def _rounded(number: float) -> int:
    """Round half up; 0.07 * 100 is a little more than 7."""
    return math.floor(round(number, 6) + 0.5)


def _check(number: int, size: int, count: int, table: SourceTable) -> None:
    place = f'data.sources.{number} ("{table.called}")'
    if count > size and not table.repeat:
        raise DataError(
            f"{place}: pairs = {count}, but it has {size} training pairs.\n"
            "Take fewer, or set repeat = true to go through them more than once."
        )
    if not count:
        raise DataError(
            f"{place}: its share of {size} training pairs is less than one pair; raise its fraction or weight."
        )
