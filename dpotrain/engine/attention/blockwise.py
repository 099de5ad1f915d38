"""Segment attention from plain matrix products, for the CPU and for whatever a flash kernel does not cover.

Queries are taken in blocks, whose scores never leave the cache and are computed again for the backward pass: the memory
is linear in the tokens, as in FlashAttention (arXiv:2205.14135, section 3.1). Key-value heads are never repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from dpotrain.data.batches.segments import Segment, Segments

#: Queries in a block. Scores of a block are (group x BLOCK, keys) per key-value head: small enough for the
#: second-level cache at common lengths, large enough that a matrix product is not all overhead.
BLOCK = 128
#: Of long rows a block has fewer queries, so that its scores are not much more than so many; but not fewer than these.
BLOCK_SCORES = 1 << 23
FEWEST_QUERIES = 16


@dataclass(frozen=True, slots=True)
class Shape:
    """What the scores depend on besides queries and keys."""

    scale: float
    softcap: float | None
    window: int | None
    """Keys a query may look back at, itself included; None for all."""


@dataclass(frozen=True, slots=True)
class _Block:
    """Queries ``[first, last)`` of a segment (in the row) over keys ``[key_first, key_last)`` of its own keys."""

    first: int
    last: int
    key_first: int
    key_last: int
    diagonal: int
    """Which of the segment's keys the block's first query is."""


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, shape: Shape
) -> torch.Tensor:
    """Attend within segments, with the softmax in float32.

    ``query`` is (T, heads, size), ``key`` (T, groups, size) with heads a multiple of groups, ``value`` (T, groups,
    value size), and what is returned (T, heads, value size) in the query's dtype.
    """
    output: torch.Tensor = _SegmentAttention.apply(query, key, value, segments, shape)  # type: ignore[no-untyped-call]
    return output


def _blocks(segment: Segment, window: int | None, heads: int) -> Iterator[_Block]:
    offset = segment.keys - segment.queries
    keys = segment.keys if window is None else min(segment.keys, window + BLOCK)
    most = BLOCK_SCORES // (heads * keys) // FEWEST_QUERIES * FEWEST_QUERIES
    size = min(BLOCK, max(FEWEST_QUERIES, most))
    for begin in range(0, segment.queries, size):
        end = min(begin + size, segment.queries)
        key_first = 0 if window is None else max(0, offset + begin - window + 1)
        yield _Block(
            segment.query_start + begin, segment.query_start + end, key_first, offset + end, offset + begin
        )


def _gather(tensor: torch.Tensor, segment: Segment) -> torch.Tensor:
    """Return a segment's keys as (groups, keys, size), copying only where they lie in two stretches."""
    parts = [tensor[start:end] for start, end in segment.stretches]
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).transpose(0, 1)


def _scatter_add(total: torch.Tensor, part: torch.Tensor, segment: Segment) -> None:
    """Add (groups, keys, size) gradients to the row's (T, groups, size)."""
    begin = 0
    for start, end in segment.stretches:
        total[start:end] += part[:, begin : begin + end - start].transpose(0, 1)
        begin += end - start


def _fold(rows: torch.Tensor, groups: int) -> torch.Tensor:
    """Turn (queries, heads, size) into (groups, heads per group x queries, size)."""
    queries, heads, size = rows.shape
    return rows.view(queries, groups, heads // groups, size).permute(1, 2, 0, 3).reshape(groups, -1, size)


def _unfold(folded: torch.Tensor, queries: int) -> torch.Tensor:
    """Turn (groups, heads per group x queries, size) into (queries, heads, size)."""
    groups, _, size = folded.shape
    return folded.view(groups, -1, queries, size).permute(2, 0, 1, 3).reshape(queries, -1, size)


def _weights(
    query: torch.Tensor, key: torch.Tensor, block: _Block, shape: Shape
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return softmax weights (groups, heads per group x queries, keys) and, with a soft cap, its tanh.

    ``query`` is scaled already. Low-precision scores go into the softmax as the product rounded them; inside it
    everything is float32.
    """
    scores = torch.bmm(query, key.transpose(1, 2))
    capped = None
    if shape.softcap is not None:
        capped = scores.float().div_(shape.softcap).tanh_()
        scores = capped * shape.softcap
    queries = block.last - block.first
    view = scores.view(scores.shape[0], -1, queries, scores.shape[-1])
    # Only the last `queries` keys can lie beyond the diagonal; only the first can lie before the window.
    beyond = torch.ones(queries, queries, dtype=torch.bool, device=scores.device).triu_(1)
    view[..., block.diagonal - block.key_first :].masked_fill_(beyond, -torch.inf)
    if shape.window is not None:
        place = torch.arange(block.diagonal, block.diagonal + queries, device=scores.device)[:, None]
        head = torch.arange(block.key_first, block.key_last, device=scores.device)
        view.masked_fill_(head <= place - shape.window, -torch.inf)
    return scores.softmax(-1), capped


def forward(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, shape: Shape
) -> torch.Tensor:
    """Return what :func:`attend` does, without a backward pass."""
    groups = key.shape[1]
    scaled = query * shape.scale
    output = query.new_empty(*query.shape[:2], value.shape[2])
    for segment in segments.items:
        keys, values = _gather(key, segment), _gather(value, segment)
        for block in _blocks(segment, shape.window, query.shape[1]):
            seen = slice(block.key_first, block.key_last)
            rows = _fold(scaled[block.first : block.last], groups)
            weights, _ = _weights(rows, keys[:, seen], block, shape)
            attended = torch.bmm(weights.to(value.dtype), values[:, seen])
            output[block.first : block.last] = _unfold(attended, block.last - block.first)
    return output


def backward(
    grad: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segments: Segments,
    shape: Shape,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of query, key and value, given that of what :func:`attend` returned."""
    groups = key.shape[1]
    scaled = query * shape.scale
    dquery = torch.empty_like(query)
    # A prompt's keys collect gradients from two segments and many blocks: float32 keeps the sum exact
    # enough for bfloat16 inputs.
    dkey = torch.zeros(key.shape, dtype=torch.float32, device=key.device)
    dvalue = torch.zeros(value.shape, dtype=torch.float32, device=value.device)
    for segment in segments.items:
        keys, values = _gather(key, segment), _gather(value, segment)
        dkeys = torch.zeros(keys.shape, dtype=torch.float32, device=keys.device)
        dvalues = torch.zeros(values.shape, dtype=torch.float32, device=values.device)
        for block in _blocks(segment, shape.window, query.shape[1]):
            seen = slice(block.key_first, block.key_last)
            rows = _fold(scaled[block.first : block.last], groups)
            drows = _fold(grad[block.first : block.last], groups)
            weights, capped = _weights(rows, keys[:, seen], block, shape)
            dvalues[:, seen] += torch.bmm(weights.to(value.dtype).transpose(1, 2), drows)
            dweights = torch.bmm(drows, values[:, seen].transpose(1, 2)).to(weights.dtype)
            # d score = p * (d p - sum(p * d p)), in one pass and in float32 inside.
            dscores = torch._softmax_backward_data(dweights, weights, -1, weights.dtype)
            if capped is not None:
                dscores.mul_(1 - capped * capped)
            low = dscores.to(query.dtype)
            dquery[block.first : block.last] = _unfold(
                torch.bmm(low, keys[:, seen]), block.last - block.first
            )
            dkeys[:, seen] += torch.bmm(low.transpose(1, 2), rows)
        _scatter_add(dkey, dkeys, segment)
        _scatter_add(dvalue, dvalues, segment)
    return dquery.mul_(shape.scale), dkey.to(key.dtype), dvalue.to(value.dtype)


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
