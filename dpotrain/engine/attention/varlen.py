"""Segment attention by variable-length kernels on CUDA.

PyTorch's flash kernel (``torch.nn.attention.varlen``) serves what it can; where a model caps its scores and the
flash-attn package is installed, that one does; PyTorch's memory-efficient kernel serves float32 and larger heads. What
none covers goes to :mod:`dpotrain.engine.attention.blockwise`, which writes its scores to the device's memory.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import torch

from dpotrain.data.batches.segments import Segments
from dpotrain.engine.attention.blockwise import Shape

Attend: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Segments, Shape], torch.Tensor]

#: Largest head size of the flash kernels.
MAX_HEAD_SIZE = 256
#: Of head sizes, for all kernels: rows of 16 bytes in 16-bit dtypes.
MULTIPLE = 8
#: What the memory-efficient kernel calls a causal mask whose diagonal ends in the lower right corner.
LOWER_RIGHT = 2
#: Of queries, to which its log-sum-exp is filled up.
SUMS_MULTIPLE = 32

# Found out when first asked for. The graph of a compiled layer has them as constants.
_has_kernels: bool | None = None
_has_flash_attn: bool | None = None
_has_enable_gqa: bool | None = None


def choose(query: torch.Tensor, value: torch.Tensor, segments: Segments, shape: Shape) -> Attend | None:
    """Return the kernel for these (T, heads, size) tensors; None where none covers them."""
    if not query.is_cuda or not _kernels() or query.shape[-1] % MULTIPLE or value.shape[-1] % MULTIPLE:
        return None
    low = query.dtype in (torch.bfloat16, torch.float16)
    flash = low and query.shape[-1] == value.shape[-1] <= MAX_HEAD_SIZE
    if shape.softcap is not None:
        return flash_attn if flash and _flash_attn() else None
    if flash:
        return torch_flash
    # Its backward pass counts a window from the upper left.
    windowless = shape.window is None or segments.longest_key <= shape.window
    return memory_efficient if windowless and (low or query.dtype == torch.float32) else None


def resolve() -> None:
    """Find out what the machine has, before a compiler asks, which cannot."""
    _kernels()
    _flash_attn()
    _enable_gqa()


def torch_flash(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, shape: Shape
) -> torch.Tensor:
    """Attend within segments; shapes as in :func:`dpotrain.engine.attention.blockwise.attend`."""
    from torch.nn.attention.varlen import varlen_attn

    # torch 2.11 takes fewer key-value heads than heads without being told.
    grouped: dict[str, Any] = {"enable_gqa": True} if _enable_gqa() else {}
    output = varlen_attn(
        query.contiguous(),
        key.index_select(0, segments.keys),
        value.index_select(0, segments.keys),
        segments.query_ends,
        segments.key_ends,
        segments.longest_query,
        segments.longest_key,
        scale=shape.scale,
        window_size=_window(shape),
        **grouped,
    )
    assert isinstance(output, torch.Tensor)  # a tuple comes only with return_aux
    return output


def flash_attn(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, shape: Shape
) -> torch.Tensor:
    """Attend within segments with capped scores, by the package flash-attn; otherwise as :func:`torch_flash`."""
    from flash_attn import flash_attn_varlen_func

    left, right = _window(shape)
    output: torch.Tensor = flash_attn_varlen_func(
        query.contiguous(),
        key.index_select(0, segments.keys),
        value.index_select(0, segments.keys),
        cu_seqlens_q=segments.query_ends,
        cu_seqlens_k=segments.key_ends,
        max_seqlen_q=segments.longest_query,
        max_seqlen_k=segments.longest_key,
        softmax_scale=shape.scale,
        causal=True,
        window_size=(left, right if left >= 0 else -1),
        softcap=shape.softcap or 0.0,
    )
    return output


def memory_efficient(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, shape: Shape
) -> torch.Tensor:
    """Attend within segments in any dtype and head size, without window or cap; otherwise as :func:`torch_flash`."""
    keys, values = key.index_select(0, segments.keys), value.index_select(0, segments.keys)
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:  # the kernel knows no groups
        keys, values = keys.repeat_interleave(repeats, 1), values.repeat_interleave(repeats, 1)
    output: torch.Tensor
    output, _ = _memory_efficient(
        query.contiguous(),
        keys,
        values,
        segments.query_ends,
        segments.key_ends,
        segments.longest_query,
        segments.longest_key,
        shape.scale,
    )
    return output


# An operator of our own, because compilers cannot trace the backward pass of PyTorch's.
@torch.library.custom_op("dpotrain::memory_efficient_attention", mutates_args=())
def _memory_efficient(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_ends: torch.Tensor,
    key_ends: torch.Tensor,
    longest_query: int,
    longest_key: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the output and the log-sum-exp (segments, heads, longest_query or a little more) of the scores."""
    output, sums, *_ = torch.ops.aten._efficient_attention_forward(
        query[None],
        key[None],
        value[None],
        None,
        query_ends,
        key_ends,
        longest_query,
        longest_key,
        0.0,
        LOWER_RIGHT,
        compute_log_sumexp=True,
        scale=scale,
    )
    return output[0], sums


@_memory_efficient.register_fake
def _(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_ends: torch.Tensor,
    key_ends: torch.Tensor,
    longest_query: int,
    *_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    aligned = (longest_query + SUMS_MULTIPLE - 1) // SUMS_MULTIPLE * SUMS_MULTIPLE
    sums = query.new_empty(query_ends.shape[0] - 1, query.shape[1], aligned, dtype=torch.float32)
    return query.new_empty(*query.shape[:2], value.shape[2]), sums


@torch.library.custom_op("dpotrain::memory_efficient_attention_backward", mutates_args=())
def _memory_efficient_backward(
    grad: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    output: torch.Tensor,
    sums: torch.Tensor,
    query_ends: torch.Tensor,
    key_ends: torch.Tensor,
    longest_query: int,
    longest_key: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    undrawn = torch.zeros((), dtype=torch.int64)  # the random state of a dropout that there is not
    gradients = torch.ops.aten._efficient_attention_backward(
        grad.contiguous()[None],
        query[None],
        key[None],
        value[None],
        None,
        output[None],
        query_ends,
        key_ends,
        longest_query,
        longest_key,
        sums,
        0.0,
        undrawn,
        undrawn,
        LOWER_RIGHT,
        False,
        scale=scale,
    )
    dquery, dkey, dvalue = (each[0] for each in gradients[:3])
    return dquery, dkey, dvalue


@_memory_efficient_backward.register_fake
def _(
    grad: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    dquery, dkey, dvalue = (each.new_empty(each.shape) for each in (query, key, value))
    return dquery, dkey, dvalue


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    query, key, value, query_ends, key_ends, ctx.longest_query, ctx.longest_key, ctx.scale = inputs
    ctx.save_for_backward(query, key, value, *output, query_ends, key_ends)


def _differentiate(ctx: Any, grad: torch.Tensor, _: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
    gradients = _memory_efficient_backward(
        grad, *ctx.saved_tensors, ctx.longest_query, ctx.longest_key, ctx.scale
    )
    return (*gradients, None, None, None, None, None)


_memory_efficient.register_autograd(_differentiate, setup_context=_keep)


def _window(shape: Shape) -> tuple[int, int]:
    # A window of w keys counts the query itself, the kernels' left window does not.
    return (-1 if shape.window is None else shape.window - 1, 0)


def _kernels() -> bool:
    global _has_kernels
    if _has_kernels is None:
        _has_kernels = torch.version.hip is None and torch.cuda.is_available()
        _has_kernels = _has_kernels and torch.cuda.get_device_capability() >= (8, 0)
    return _has_kernels


def _flash_attn() -> bool:
    # Import it to find out: builds for another torch are common, and fail only then.
    global _has_flash_attn
    if _has_flash_attn is None:
        try:
            importlib.import_module("flash_attn")
        except (ImportError, OSError):
            _has_flash_attn = False
        else:
            _has_flash_attn = True
    return _has_flash_attn


def _enable_gqa() -> bool:
    global _has_enable_gqa
    if _has_enable_gqa is None:
        from torch.nn.attention.varlen import varlen_attn

        _has_enable_gqa = "enable_gqa" in inspect.signature(varlen_attn).parameters
    return _has_enable_gqa
