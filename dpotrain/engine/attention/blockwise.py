"""Segment attention from plain matrix products, for the CPU and for whatever a flash kernel does not cover.

Queries are taken in blocks, whose scores never leave the cache and are computed again for the backward pass: the memory
is linear in the tokens, as in FlashAttention (arXiv:2205.14135, section 3.1). Blocks of short segments are too small to
occupy several threads, so that those of similar size are computed together, padded to the largest. Key-value heads are
never repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from dpotrain.data.batches.segments import Segment, Segments

#: Queries in a block. Scores of a block are (queries x heads per group, keys) per key-value head: small enough for the
#: second-level cache at common lengths, large enough that a matrix product is not all overhead.
BLOCK = 128
#: Of long rows a block has fewer queries, so that its scores are not much more than so many; but not fewer than these.
BLOCK_SCORES = 1 << 23
FEWEST_QUERIES = 16
#: Most scores of blocks that are computed together, and how many more of them than by itself a block may cost there:
#: about what the operations of a block cost however small it is.
TOGETHER_SCORES = 1 << 20
ALONE_SCORES = 1 << 16
#: Rows of scores begin at multiples of so many, which vector instructions read faster.
ALIGNED = 32
#: Added to scores that are not to be seen. Finite, so that the rows of padding, which see nothing, are no NaN.
UNSEEN = -1e30


@dataclass(frozen=True, slots=True)
class Shape:
    """What the scores depend on besides queries and keys."""

    scale: float
    softcap: float | None
    window: int | None
    """Keys a query may look back at, itself included; None for all."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Blocks that are computed together, all at the end of ``queries`` x ``keys`` scores: padding is before them."""

    blocks: tuple[Segment, ...]
    """Parts of segments: some of the queries, and the keys up to the last of them."""
    queries: int
    keys: int
    masked_from: int
    """The column of the scores from which on the mask is added."""
    mask: torch.Tensor
    """(blocks, queries, 1, columns): 0 or :data:`UNSEEN`."""

    def stretches(self) -> Iterator[tuple[int, slice, slice]]:
        """Yield of every stretch of keys the number of its block, its place in there, and that in the row."""
        for number, block in enumerate(self.blocks):
            place = self.keys - block.keys
            for start, end in block.stretches:
                yield number, slice(place, place + end - start), slice(start, end)
                place += end - start


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, shape: Shape
) -> torch.Tensor:
    """Attend within segments, with the softmax in float32.

    ``query`` is (T, heads, size), ``key`` (T, groups, size) with heads a multiple of groups, ``value`` (T, groups,
    value size), and what is returned (T, heads, value size) in the query's dtype.
    """
    output: torch.Tensor = _SegmentAttention.apply(query, key, value, segments, shape)  # type: ignore[no-untyped-call]
    return output


# A micro-batch's layers, and both its passes, have the same few batches.
@lru_cache(maxsize=8)
def batches(
    items: tuple[Segment, ...], window: int | None, heads: int, dtype: torch.dtype, device: torch.device
) -> tuple[Batch, ...]:
    """Return the blocks of these segments, those of similar size together."""
    blocks = [block for segment in items for block in _blocks(segment, window, heads)]
    blocks.sort(key=lambda block: (block.keys, block.queries))
    groups: list[list[Segment]] = []
    for block in blocks:
        if not groups or not _belong_together(groups[-1], block, heads):
            groups.append([])
        groups[-1].append(block)
    return tuple(_batch(group, window, dtype, device) for group in groups)


def _blocks(segment: Segment, window: int | None, heads: int) -> Iterator[Segment]:
    keys = segment.keys if window is None else min(segment.keys, window + BLOCK)
    most = BLOCK_SCORES // (heads * keys) // FEWEST_QUERIES * FEWEST_QUERIES
    size = min(BLOCK, max(FEWEST_QUERIES, most))
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


def _belong_together(blocks: Sequence[Segment], more: Segment, heads: int) -> bool:
    before, after = (len(each) * heads * _queries(each) * _keys(each) for each in (blocks, [*blocks, more]))
    return after <= min(TOGETHER_SCORES, before + heads * more.queries * more.keys + ALONE_SCORES)


def _queries(blocks: Sequence[Segment]) -> int:
    return max(block.queries for block in blocks)


def _keys(blocks: Sequence[Segment]) -> int:
    most = max(block.keys for block in blocks)
    return most if len(blocks) == 1 else -(-most // ALIGNED) * ALIGNED


def _batch(blocks: Sequence[Segment], window: int | None, dtype: torch.dtype, device: torch.device) -> Batch:
    queries, keys = _queries(blocks), _keys(blocks)
    # Both are counted from the end, where the last query sees the last key.
    query, key = torch.arange(-queries, 0)[:, None], torch.arange(-keys, 0)
    unseen = key > query
    if window is not None:
        unseen = unseen | (key <= query - window)
    own = torch.tensor([block.keys for block in blocks])[:, None, None]
    hidden = unseen | (key < -own)
    # Where nothing is padded, all queries see the keys before them.
    first = int(hidden.flatten(0, 1).any(0).int().argmax()) // ALIGNED * ALIGNED
    seen = torch.zeros(hidden[..., first:].shape, dtype=dtype).masked_fill_(hidden[..., first:], UNSEEN)
    return Batch(tuple(blocks), queries, keys, first, seen[:, :, None].to(device))


def _by_group(rows: torch.Tensor, groups: int, scale: float = 1.0) -> torch.Tensor:
    """Turn (T, heads, size) into (groups, T, heads per group, size), times ``scale``: a group's heads side by side."""
    length, heads, size = rows.shape
    laid = rows.view(length, groups, heads // groups, size).permute(1, 0, 2, 3)
    out = rows.new_empty(laid.shape)
    return torch.mul(laid, scale, out=out) if scale != 1.0 else out.copy_(laid)


def _by_token(grouped: torch.Tensor, scale: float, dtype: torch.dtype) -> torch.Tensor:
    """Turn (groups, T, heads per group, size) into (T, heads, size), times ``scale``, in contiguous memory."""
    groups, length, heads, size = grouped.shape
    out = grouped.new_empty((length, groups, heads, size), dtype=dtype)
    out.copy_(grouped.permute(1, 0, 2, 3))
    return (out.mul_(scale) if scale != 1.0 else out).view(length, groups * heads, size)


def _of_queries(grouped: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return the blocks' queries, (groups x blocks, queries x heads per group, size), zeros where there is padding."""
    groups, _, heads, size = grouped.shape
    if len(batch.blocks) == 1:
        (block,) = batch.blocks
        return grouped[:, block.query_start : block.query_end].reshape(groups, -1, size)
    rows = grouped.new_zeros(groups, len(batch.blocks), batch.queries, heads, size)
    for number, block in enumerate(batch.blocks):
        rows[:, number, batch.queries - block.queries :] = grouped[:, block.query_start : block.query_end]
    return rows.view(groups * len(batch.blocks), -1, size)


def _of_keys(grouped: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return the blocks' keys, (groups x blocks, keys, size), zeros where there is padding."""
    groups, _, _, size = grouped.shape
    first = batch.blocks[0]
    if len(batch.blocks) == 1 and len(first.stretches) == 1:
        ((start, end),) = first.stretches
        return grouped[:, start:end, 0]
    rows = grouped.new_zeros(groups, len(batch.blocks), batch.keys, size)
    for number, place, in_row in batch.stretches():
        rows[:, number, place] = grouped[:, in_row, 0]
    return rows.view(groups * len(batch.blocks), -1, size)


def _put_queries(grouped: torch.Tensor, rows: torch.Tensor, batch: Batch) -> None:
    """Put what :func:`_of_queries` took back into its places."""
    groups, _, heads, size = grouped.shape
    parts = rows.view(groups, len(batch.blocks), batch.queries, heads, size)
    for number, block in enumerate(batch.blocks):
        grouped[:, block.query_start : block.query_end] = parts[:, number, batch.queries - block.queries :]


def _add_keys(grouped: torch.Tensor, rows: torch.Tensor, batch: Batch) -> None:
    """Add gradients of what :func:`_of_keys` took to those of the row."""
    groups, _, _, size = grouped.shape
    parts = rows.view(groups, len(batch.blocks), batch.keys, size)
    for number, place, in_row in batch.stretches():
        grouped[:, in_row, 0] += parts[:, number, place]


def _weights(
    rows: torch.Tensor, keys: torch.Tensor, batch: Batch, shape: Shape
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return softmax weights (groups x blocks, queries x heads per group, keys) and, with a soft cap, its tanh.

    ``rows`` are scaled already. Low-precision scores go into the softmax as the product rounded them; inside it
    everything is float32.
    """
    scores = torch.bmm(rows, keys.transpose(1, 2))
    capped = None
    if shape.softcap is not None:
        capped = scores.float().div_(shape.softcap).tanh_()
        scores = capped * shape.softcap
    view = scores.view(-1, len(batch.blocks), batch.queries, rows.shape[1] // batch.queries, batch.keys)
    view[..., batch.masked_from :] += batch.mask
    return scores.softmax(-1), capped


def _laid_out(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, shape: Shape
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the inputs by group, the queries scaled."""
    groups = key.shape[1]
    return _by_group(query, groups, shape.scale), _by_group(key, groups), _by_group(value, groups)


def forward(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, shape: Shape
) -> torch.Tensor:
    """Return what :func:`attend` does, without a backward pass."""
    queries, keys, values = _laid_out(query, key, value, shape)
    output = query.new_empty(*queries.shape[:3], value.shape[2])
    for batch in batches(segments.items, shape.window, query.shape[1], query.dtype, query.device):
        weights, _ = _weights(_of_queries(queries, batch), _of_keys(keys, batch), batch, shape)
        _put_queries(output, torch.bmm(weights.to(value.dtype), _of_keys(values, batch)), batch)
    return _by_token(output, 1.0, query.dtype)


def backward(
    grad: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segments: Segments,
    shape: Shape,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of query, key and value, given that of what :func:`attend` returned."""
    queries, keys, values = _laid_out(query, key, value, shape)
    grads = _by_group(grad, key.shape[1])
    dqueries = torch.empty_like(queries)
    # A prompt's keys collect gradients from two segments and many blocks: float32 keeps the sum exact
    # enough for bfloat16 inputs.
    dkeys, dvalues = (torch.zeros_like(each, dtype=torch.float32) for each in (keys, values))
    for batch in batches(segments.items, shape.window, query.shape[1], query.dtype, query.device):
        rows, drows, seen = _of_queries(queries, batch), _of_queries(grads, batch), _of_keys(keys, batch)
        weights, capped = _weights(rows, seen, batch, shape)
        _add_keys(dvalues, torch.bmm(weights.to(value.dtype).transpose(1, 2), drows), batch)
        dweights = torch.bmm(drows, _of_keys(values, batch).transpose(1, 2)).to(weights.dtype)
        # d score = p * (d p - sum(p * d p)), in one pass and in float32 inside.
        dscores = torch._softmax_backward_data(dweights, weights, -1, weights.dtype)
        if capped is not None:
            dscores.mul_(1 - capped * capped)
        low = dscores.to(query.dtype)
        _put_queries(dqueries, torch.bmm(low, seen), batch)
        _add_keys(dkeys, torch.bmm(low.transpose(1, 2), rows), batch)
    return (
        _by_token(dqueries, shape.scale, query.dtype),
        _by_token(dkeys, 1.0, key.dtype),
        _by_token(dvalues, 1.0, value.dtype),
    )


class _SegmentAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        segments: Segments,
        shape: Shape,
    ) -> torch.Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.segments, ctx.shape = segments, shape
        return forward(query, key, value, segments, shape)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        return (*backward(grad, query, key, value, ctx.segments, ctx.shape), None, None)
