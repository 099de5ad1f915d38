"""Segment attention by a variable-length flash kernel on CUDA.

PyTorch's own kernel (``torch.nn.attention.varlen``) serves what it can; where a model caps its scores and the
flash-attn package is installed, that one does. What neither covers goes to :mod:`dpotrain.engine.attention.blockwise`.
"""

from __future__ import annotations

import importlib
import inspect
from functools import cache
from typing import Any

import torch

from dpotrain.engine.attention.blockwise import Shape
from dpotrain.engine.attention.segments import Segments

#: Largest head size of the flash kernels.
MAX_HEAD_SIZE = 256


def covers(query: torch.Tensor, value: torch.Tensor, shape: Shape) -> bool:
    """Whether a flash kernel can take these (T, heads, size) tensors."""
    return (
        query.is_cuda
        and query.dtype in (torch.bfloat16, torch.float16)
        and query.shape[-1] == value.shape[-1] <= MAX_HEAD_SIZE
        and query.shape[-1] % 8 == 0
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
        and (shape.softcap is None or _flash_attn_installed())
    )


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, shape: Shape
) -> torch.Tensor:
    """Attend within segments; shapes as in :func:`dpotrain.engine.attention.blockwise.attend`."""
    index = segments.varlen(query.device)
    keys, values = key.index_select(0, index.keys), value.index_select(0, index.keys)
    # A window of w keys counts the query itself, the kernels' left window does not.
    left = -1 if shape.window is None else shape.window - 1
    if shape.softcap is not None:
        return _flash_attn(query, keys, values, index, left, shape)
    from torch.nn.attention.varlen import varlen_attn

    grouped: dict[str, Any] = {}
    if key.shape[1] != query.shape[1]:
        if _takes_grouped_heads():
            grouped["enable_gqa"] = True
        else:
            repeats = query.shape[1] // key.shape[1]
            keys, values = keys.repeat_interleave(repeats, 1), values.repeat_interleave(repeats, 1)
    output = varlen_attn(
        query.contiguous(),
        keys,
        values,
        index.query_ends,
        index.key_ends,
        index.longest_query,
        index.longest_key,
        scale=shape.scale,
        window_size=(left, 0),
        **grouped,
    )
    assert isinstance(output, torch.Tensor)  # a tuple comes only with return_aux
    return output


def _flash_attn(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, index: Any, left: int, shape: Shape
) -> torch.Tensor:
    from flash_attn import flash_attn_varlen_func

    output: torch.Tensor = flash_attn_varlen_func(
        query.contiguous(),
        keys,
        values,
        cu_seqlens_q=index.query_ends,
        cu_seqlens_k=index.key_ends,
        max_seqlen_q=index.longest_query,
        max_seqlen_k=index.longest_key,
        softmax_scale=shape.scale,
        causal=True,
        window_size=(left, 0 if left >= 0 else -1),
        softcap=shape.softcap or 0.0,
    )
    return output


@cache
def _flash_attn_installed() -> bool:
    # Import it to find out: builds for another torch are common, and fail only then.
    try:
        importlib.import_module("flash_attn")
    except (ImportError, OSError):
        return False
    return True


@cache
def _takes_grouped_heads() -> bool:
    # torch 2.11 has the kernel without the argument.
    from torch.nn.attention.varlen import varlen_attn

    return "enable_gqa" in inspect.signature(varlen_attn).parameters
