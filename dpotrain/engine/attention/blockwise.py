"""Segment attention from plain matrix products, for the CPU and for whatever a flash kernel does not cover.

The scores of a block of queries never leave the cache and are computed again for the backward pass: the memory is
linear in the tokens, as in FlashAttention (arXiv:2205.14135, section 3.1). Key-value heads are never repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from dpotrain.data.batches.segments import Segments
from dpotrain.engine.attention.blocks import Batch, Layout, lay_out


@dataclass(frozen=True, slots=True)
class Shape:
    """What the scores depend on besides queries and keys."""

    scale: float
    softcap: float | None
    window: int | None
    """Keys a query may look back at, itself included; None for all."""


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, shape: Shape
) -> torch.Tensor:
    """Attend within segments, with the softmax in float32.

    ``query`` is (T, heads, size), ``key`` (T, groups, size) with heads a multiple of groups, ``value`` (T, groups,
    value size), and what is returned (T, heads, value size) in the query's dtype.
    """
    output: torch.Tensor = _SegmentAttention.apply(query, key, value, segments, shape)  # type: ignore[no-untyped-call]
    return output


def forward(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, shape: Shape
) -> torch.Tensor:
    """Return what :func:`attend` does, without a backward pass."""
    layout = _layout(query, key, segments, shape)
    queries = _of_queries(query, layout)
    output = query.new_empty(len(queries), query.shape[1] // layout.groups * value.shape[2])
    for batch, rows in layout.parts(queries, query.shape[2]):
        weights, _ = _weights(rows, _of_keys(key, layout, batch), batch, shape)
        torch.bmm(
            weights.to(value.dtype),
            _of_keys(value, layout, batch),
            out=layout.part(output, batch, value.shape[2]),
        )
    return _by_token(output, layout, query.shape[1])


def backward(
    grad: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segments: Segments,
    shape: Shape,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of query, key and value, given that of what :func:`attend` returned."""
    layout = _layout(query, key, segments, shape)
    queries, grads = _of_queries(query, layout), _of_queries(grad, layout)
    grads.index_fill_(0, layout.padding, 0)
    dqueries = torch.empty_like(queries)
    dkeys, dvalues = _KeyGradients(layout, key), _KeyGradients(layout, value)
    for batch, rows in layout.parts(queries, query.shape[2]):
        drows, keys = layout.part(grads, batch, value.shape[2]), _of_keys(key, layout, batch)
        weights, capped = _weights(rows, keys, batch, shape)
        dvalues.add(batch, weights.to(value.dtype), drows, 1.0)
        dweights = torch.bmm(drows, _of_keys(value, layout, batch).transpose(1, 2)).to(weights.dtype)
        # d score = p * (d p - sum(p * d p)), in one pass and in float32 inside.
        dscores = torch._softmax_backward_data(dweights, weights, -1, weights.dtype)
        if capped is not None:
            dscores.mul_(1 - capped * capped)
        low = dscores.to(query.dtype)
        _product(low, keys, shape.scale, layout.part(dqueries, batch, query.shape[2]))
        dkeys.add(batch, low, rows, shape.scale)
    return _by_token(dqueries, layout, query.shape[1]), dkeys.sum(), dvalues.sum()


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


class _KeyGradients:
    """The gradient of keys or values, to which every batch adds that of its own."""

    def __init__(self, layout: Layout, like: torch.Tensor) -> None:
        self._layout = layout
        self._shape = like.shape
        self._laid_out = like.new_empty(len(layout.key_row_of), like.shape[2])
        # A prompt's keys collect gradients from two segments and many blocks: sums in float32 are exact
        # enough for bfloat16 inputs. Those of embedding_bag, below, are in float32, too.
        self._alone: torch.Tensor | None = None
        if any(batch.first_key is None for batch in layout.batches):
            self._alone = like.new_zeros(like.shape, dtype=torch.promote_types(like.dtype, torch.float32))

    def add(self, batch: Batch, by_score: torch.Tensor, rows: torch.Tensor, scale: float) -> None:
        """Add ``by_score`` (.., queries, keys), transposed, times the ``rows`` of the queries, times ``scale``."""
        by_key = by_score.transpose(1, 2)
        count, length, size = len(by_key), batch.keys, rows.shape[2]
        if batch.first_key is not None:
            part = self._laid_out[batch.first_key : batch.first_key + count * length]
            _product(by_key, rows, scale, part.view(count, length, size))
            return
        assert self._alone is not None
        product = _product(by_key, rows, scale, rows.new_empty(count, length, size))
        for part, (start, end) in _stretches(batch, product):
            self._alone[start:end] += part.transpose(0, 1)

    def sum(self) -> torch.Tensor:
        """Return the gradient, (T, groups, size)."""
        places, ends = self._layout.key_places, self._layout.key_ends
        bags = torch.embedding_bag(self._laid_out, places, ends, mode=0, include_last_offset=True)[0]
        total = bags.view(self._shape)
        return total if self._alone is None else self._alone.add_(total).to(total.dtype)


def _layout(query: torch.Tensor, key: torch.Tensor, segments: Segments, shape: Shape) -> Layout:
    return lay_out(segments.items, shape.window, query.shape[1], key.shape[1], query.dtype, query.device)


def _of_queries(rows: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Lay (T, heads, size) out as (R, heads per group x size)."""
    return rows.reshape(len(layout.place_of), -1).index_select(0, layout.row_of)


def _by_token(laid_out: torch.Tensor, layout: Layout, heads: int) -> torch.Tensor:
    """Turn what :func:`_of_queries` laid out back into (T, heads, size)."""
    rows = laid_out.index_select(0, layout.place_of)
    return rows.view(len(rows) // layout.groups, heads, -1)


def _of_keys(rows: torch.Tensor, layout: Layout, batch: Batch) -> torch.Tensor:
    """Return of (T, groups, size) a batch's keys, (groups x blocks, keys, size)."""
    count = layout.groups * len(batch.blocks)
    if batch.first_key is not None:
        places = layout.key_row_of[batch.first_key : batch.first_key + count * batch.keys]
        return rows.reshape(-1, rows.shape[2]).index_select(0, places).view(count, batch.keys, -1)
    keys = rows.new_zeros(count, batch.keys, rows.shape[2])
    for part, (start, end) in _stretches(batch, keys):
        part.copy_(rows[start:end].transpose(0, 1))
    return keys


def _stretches(batch: Batch, keys: torch.Tensor) -> Iterator[tuple[torch.Tensor, tuple[int, int]]]:
    """Yield of a single block's keys (groups, keys, size) the part of every stretch, and that stretch of the row."""
    place = batch.keys - batch.blocks[0].keys
    for start, end in batch.blocks[0].stretches:
        yield keys[:, place : place + end - start], (start, end)
        place += end - start


def _weights(
    rows: torch.Tensor, keys: torch.Tensor, batch: Batch, shape: Shape
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return softmax weights (groups x blocks, queries x heads per group, keys) and, with a soft cap, its tanh.

    Low-precision scores go into the softmax as the product rounded them; inside it everything is float32.
    """
    scores = rows.new_empty(len(rows), rows.shape[1], batch.keys)
    _product(rows, keys.transpose(1, 2), shape.scale, scores)
    capped = None
    if shape.softcap is not None:
        capped = scores.float().div_(shape.softcap).tanh_()
        scores = capped * shape.softcap
    view = scores.view(-1, len(batch.blocks), batch.queries, rows.shape[1] // batch.queries, batch.keys)
    view[..., batch.masked_from :] += batch.mask
    return scores.softmax(-1), capped


def _product(first: torch.Tensor, second: torch.Tensor, scale: float, out: torch.Tensor) -> torch.Tensor:
    """Write ``scale`` times the products into ``out``, and return it."""
    return out.baddbmm_(first, second, beta=0, alpha=scale)
