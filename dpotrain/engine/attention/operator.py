"""Blockwise attention as one operator in the graph of a compiled layer.

A compiler that traced its loops over the segments would compile again for every row. The operator takes the pairs'
lengths as a tensor instead. An uncompiled forward calls :func:`dpotrain.engine.attention.blockwise.attend` directly,
without a custom operator's own work in every call.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from dpotrain.data.batches.segments import PairLengths, Segments
from dpotrain.engine.attention import blockwise
from dpotrain.engine.attention.blockwise import Shape


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, shape: Shape
) -> torch.Tensor:
    """Attend within segments; shapes as in :func:`dpotrain.engine.attention.blockwise.attend`."""
    output: torch.Tensor = _forward(
        query, key, value, segments.lengths, shape.scale, shape.softcap, shape.window
    )
    return output


@torch.library.custom_op("dpotrain::segment_attention", mutates_args=())
def _forward(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: torch.Tensor,
    scale: float,
    softcap: float | None,
    window: int | None,
) -> torch.Tensor:
    return blockwise.forward(query, key, value, _segments(lengths), Shape(scale, softcap, window))


@_forward.register_fake
def _(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any) -> torch.Tensor:
    return query.new_empty(*query.shape[:2], value.shape[2])


@torch.library.custom_op("dpotrain::segment_attention_backward", mutates_args=())
def _backward(
    grad: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: torch.Tensor,
    scale: float,
    softcap: float | None,
    window: int | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    shape = Shape(scale, softcap, window)
    return blockwise.backward(grad, query, key, value, _segments(lengths), shape)


@_backward.register_fake
def _(
    grad: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    dquery, dkey, dvalue = (each.new_empty(each.shape) for each in (query, key, value))
    return dquery, dkey, dvalue


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    *tensors, ctx.scale, ctx.softcap, ctx.window = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    gradients = _backward(grad, *ctx.saved_tensors, ctx.scale, ctx.softcap, ctx.window)
    return (*gradients, None, None, None, None)


_forward.register_autograd(_differentiate, setup_context=_keep)


def _segments(lengths: torch.Tensor) -> Segments:
    return _segments_of(tuple(lengths.tolist()))


@lru_cache(maxsize=4)  # all layers have the same
def _segments_of(counts: tuple[int, ...]) -> Segments:
    return Segments.of([PairLengths(*counts[place : place + 3]) for place in range(0, len(counts), 3)])
