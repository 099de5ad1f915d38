"""What blockwise attention computes together, and how it lies in memory there.

Queries are taken in blocks. Blocks of short segments are too small to occupy several threads, so that those of similar
size are a batch, padded to the largest. All queries of a row are laid out batch after batch with one gather, and what
belongs to them is gathered back with another: a copy per block would take longer than the products of short segments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from dpotrain.data.batches.segments import Segment, copy_to

#: Of long rows a block has fewer queries than others, but not fewer than these.
FEWEST_QUERIES = 16
#: Rows of scores begin at multiples of so many, which vector instructions read faster.
ALIGNED = 32


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large what is computed at once is on a kind of device."""

    block: int
    """Queries in a block. Its scores are (queries x heads per group, keys) per key-value head."""
    block_scores: int
    """Of long rows a block has fewer queries, so that its scores are not much more than so many."""
    together: int
    """Most scores of blocks that are computed together."""
    alone: int
    """How many more scores than by itself a block may cost together with others: about what the operations of a block
    take however small it is."""


#: At common lengths the scores of a block are in the second-level cache, and its products not all overhead.
CPU = Sizes(block=64, block_scores=1 << 23, together=1 << 20, alone=1 << 17)
#: The operations of a block take about 100 microseconds to launch, in which the memory of a current GPU passes over
#: some 2**24 scores. Most that a batch takes, in float32 with its gradients, is about 500 MB.
ACCELERATOR = Sizes(block=512, block_scores=1 << 25, together=1 << 25, alone=1 << 24)


@dataclass(frozen=True, slots=True)
class Batch:
    """Blocks that are computed together, each at the end of ``queries`` x ``keys`` scores: padding is before it."""

    blocks: tuple[Segment, ...]
    """Parts of segments: some of the queries, and the keys up to the last of them."""
    queries: int
    keys: int
    masked_from: int
    """The column of the scores from which on the mask is added."""
    mask: torch.Tensor
    """(blocks, queries, 1, columns): 0, or a number so low that its score is not to be seen."""
    first_row: int
    """Where its queries begin in the layout."""
    first_key: int | None
    """Where its keys begin in the layout; None of a block by itself, whose keys are taken from the row directly."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The batches of a row, and the gathers between the row and them. Rows of tensors are of one group of a token."""

    batches: tuple[Batch, ...]
    groups: int
    row_of: torch.Tensor
    """(R,) int64: the row (token x groups + group) of every query in the layout; of padding, any."""
    padding: torch.Tensor
    """(N,) int64: the queries in the layout that are padding."""
    place_of: torch.Tensor
    """(T x groups,) int64: where in the layout each row's query is."""
    key_row_of: torch.Tensor
    """(K,) int64: the row of every key in the layout, batches of one block left out; of padding, any."""
    key_places: torch.Tensor
    """(k,) int64: the places of each row's key in the layout, row after row, padding left out."""
    key_ends: torch.Tensor
    """(T x groups + 1,) int64: where each row's part of ``key_places`` begins and ends."""

    def part(self, laid_out: torch.Tensor, batch: Batch, size: int) -> torch.Tensor:
        """View of laid out queries (R, heads per group x size) the batch's.

        They are (groups x blocks, queries x heads per group, size).
        """
        count = self.groups * len(batch.blocks)
        return laid_out[batch.first_row : batch.first_row + count * batch.queries].view(count, -1, size)

    def parts(self, laid_out: torch.Tensor, size: int) -> Iterator[tuple[Batch, torch.Tensor]]:
        """Yield every batch with its part."""
        for batch in self.batches:
            yield batch, self.part(laid_out, batch, size)


# A micro-batch's layers, and both its passes, have the same layout.
@lru_cache(maxsize=8)
def lay_out(
    items: tuple[Segment, ...],
    window: int | None,
    heads: int,
    groups: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Layout:
    """Return the layout of these segments, which are all of a row, for scores in this dtype."""
    sizes = CPU if device.type == "cpu" else ACCELERATOR
    blocks = [block for segment in items for block in _blocks(segment, window, heads, sizes)]
    blocks.sort(key=lambda block: (block.keys, block.queries))
    together: list[list[Segment]] = []
    for block in blocks:
        if not together or not _belong_together(together[-1], block, heads, sizes):
            together.append([])
        together[-1].append(block)
    batches: list[Batch] = []
    queries: list[np.ndarray] = [np.empty(0, np.int64)]
    keys: list[np.ndarray] = [np.empty(0, np.int64)]
    for blocks in together:
        width, length = _queries(blocks), _keys(blocks)
        alone = len(blocks) == 1
        mask, first = _mask(blocks, width, length, window, dtype)
        places = (sum(map(len, queries)), None if alone else sum(map(len, keys)))
        batches.append(Batch(tuple(blocks), width, length, first, copy_to(mask, device), *places))
        queries.append(_rows([np.arange(each.query_start, each.query_end) for each in blocks], width, groups))
        if not alone:
            keys.append(_rows([each.places for each in blocks], length, groups))
    tokens = max(segment.query_end for segment in items)
    return Layout(tuple(batches), groups, *_gathers(queries, keys, tokens * groups, device))


def _gathers(
    queries: Sequence[np.ndarray], keys: Sequence[np.ndarray], rows: int, device: torch.device
) -> Iterator[torch.Tensor]:
    """Yield the tensors of a layout, from the rows of its queries and keys, -1 where there is padding."""
    row_of, key_row_of = np.concatenate(queries), np.concatenate(keys)
    (real,) = np.nonzero(row_of >= 0)
    place_of = np.empty(rows, np.int64)
    place_of[row_of[real]] = real
    # Sorting puts padding first, and is stable: sums are always of the same order.
    by_row = key_row_of.argsort(kind="stable")[np.count_nonzero(key_row_of < 0) :]
    ends = np.concatenate([[0], np.bincount(key_row_of[by_row], minlength=rows).cumsum()])
    for each in (
        row_of.clip(0),
        np.flatnonzero(row_of < 0),
        place_of,
        key_row_of.clip(0),
        by_row,
        ends.astype(np.int64),
    ):
        yield copy_to(torch.from_numpy(each), device)


def _rows(tokens: Sequence[np.ndarray], length: int, groups: int) -> np.ndarray:
    """Return (groups x blocks x length,) rows of the tokens of each block, at the end, and -1 before them."""
    padded = np.full((len(tokens), length), -1)
    for block, each in zip(padded, tokens, strict=True):
        block[length - len(each) :] = each
    rows = padded * groups + np.arange(groups)[:, None, None]
    return np.where(padded < 0, -1, rows).ravel()


def _blocks(segment: Segment, window: int | None, heads: int, sizes: Sizes) -> Iterator[Segment]:
    keys = segment.keys if window is None else min(segment.keys, window + sizes.block)
    most = sizes.block_scores // (heads * keys) // FEWEST_QUERIES * FEWEST_QUERIES
    size = min(sizes.block, max(FEWEST_QUERIES, most))
    offset = segment.keys - segment.queries
    for begin in range(0, segment.queries, size):
        end = min(begin + size, segment.queries)
        key_first = 0 if window is None else max(0, offset + begin - window + 1)
        yield Segment(
            segment.query_start + begin,
            segment.query_start + end,
            tuple(_part(segment.stretches, key_first, offset + end)),
        )


def _part(stretches: Sequence[tuple[int, int]], first: int, last: int) -> Iterator[tuple[int, int]]:
    """Yield what the keys ``[first, last)`` of a segment are in the row."""
    place = 0
    for start, end in stretches:
        begin, stop = max(first - place, 0), min(last - place, end - start)
        if begin < stop:
            yield start + begin, start + stop
        place += end - start


def _belong_together(blocks: Sequence[Segment], more: Segment, heads: int, sizes: Sizes) -> bool:
    before, after = (len(each) * heads * _queries(each) * _keys(each) for each in (blocks, [*blocks, more]))
    return after <= min(sizes.together, before + heads * more.queries * more.keys + sizes.alone)


def _queries(blocks: Sequence[Segment]) -> int:
    return max(block.queries for block in blocks)


def _keys(blocks: Sequence[Segment]) -> int:
    return -(-max(block.keys for block in blocks) // ALIGNED) * ALIGNED


def _mask(
    blocks: Sequence[Segment], queries: int, keys: int, window: int | None, dtype: torch.dtype
) -> tuple[torch.Tensor, int]:
    """Return the mask of a batch, and the column from which on it is needed."""
    # Both are counted from the end, where the last query sees the last key.
    query, key = torch.arange(-queries, 0)[:, None], torch.arange(-keys, 0)
    unseen = key > query
    if window is not None:
        unseen = unseen | (key <= query - window)
    own = torch.tensor([block.keys for block in blocks])[:, None, None]
    hidden = unseen | (key < -own)
    # Where nothing is padded, all queries see the keys before them.
    first = int(hidden.flatten(0, 1).any(0).int().argmax()) // ALIGNED * ALIGNED
    # Finite, so that the rows of padding, which see nothing, are no NaN; half of the range, so that adding stays in it.
    lowest = torch.finfo(dtype).min / 2
    seen = torch.zeros(hidden[..., first:].shape, dtype=dtype).masked_fill_(hidden[..., first:], lowest)
    return seen[:, :, None], first
