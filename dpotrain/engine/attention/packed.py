"""Segment attention as an attention implementation of transformers.

It is registered once per implementation that it replaces, and gets the segments as a forward argument. A call without
segments (``generate``, an ordinary forward) goes to the replaced implementation with its mask.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch

from dpotrain.engine.attention import blockwise, varlen
from dpotrain.engine.attention.blockwise import Shape
from dpotrain.engine.attention.segments import Segments

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PREFIX = "dpotrain_packed_over_"

#: True while a packed forward builds its masks (of which it needs none).
_packing: ContextVar[bool] = ContextVar("dpotrain_packing", default=False)


class CannotPackError(Exception):
    """The model uses an attention feature that segment attention does not support; the message names it."""


@contextmanager
def packing() -> Iterator[None]:
    """Inside this context the model builds no masks: the segments decide what is seen."""
    token = _packing.set(True)
    try:
        yield
    finally:
        _packing.reset(token)


def install(model: PreTrainedModel) -> None:
    """Switch a model to packed attention over its present implementation; a second call changes nothing.

    Raises:
        CannotPackError: the model does not accept custom attention implementations.
    """
    present = model.config._attn_implementation or "eager"
    if present.startswith(PREFIX):
        return
    name = _register(present)
    try:
        model.set_attn_implementation(name)
    except ValueError as error:
        raise CannotPackError(
            f"{type(model).__name__} does not accept a custom attention implementation"
        ) from error
    if model.config._attn_implementation != name:
        raise CannotPackError(f"{type(model).__name__} keeps its own attention implementation")


def uninstall(model: PreTrainedModel) -> None:
    """Give a model its own implementation back."""
    present = model.config._attn_implementation or ""
    if present.startswith(PREFIX):
        model.set_attn_implementation(present.removeprefix(PREFIX))


def _register(underlying: str) -> str:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    name = PREFIX + underlying
    build_mask = ALL_MASK_ATTENTION_FUNCTIONS[underlying]

    def mask(*args: Any, **kwargs: Any) -> Any:
        return None if _packing.get() else build_mask(*args, **kwargs)

    def attention(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        *,
        segments: Segments | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if segments is None:
            if underlying == "eager":  # every modeling file has its own, and transformers no registry of them
                ordinary = sys.modules[type(module).__module__].eager_attention_forward
            else:
                ordinary = ALL_ATTENTION_FUNCTIONS[underlying]
            result: tuple[torch.Tensor, torch.Tensor | None] = ordinary(
                module, query, key, value, attention_mask, **kwargs
            )
            return result
        return _attend(module, query, key, value, segments, **kwargs), None

    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, mask)
    return name


def exclude_from_compilation() -> None:
    """Have torch.compile call segment attention as it is; a second call changes nothing.

    Which tokens see which is decided in Python for every micro-batch, which it cannot trace. A decorator would import
    the compiler, which takes a second, in every run.
    """
    global _attend
    if not hasattr(_attend, "_torchdynamo_disable"):
        _attend = torch.compiler.disable(_attend)  # type: ignore[no-untyped-call]


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segments: Segments,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    s_aux: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    **_: Any,
) -> torch.Tensor:
    """Attend over segments: query (1, heads, T, size), key and value (1, groups, T, size) to (1, T, heads, size)."""
    if s_aux is not None:
        raise CannotPackError("its attention has sinks")
    if position_bias is not None:
        raise CannotPackError("its attention adds a bias by position")
    if not (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        raise CannotPackError("its attention is not causal")
    if dropout:
        raise CannotPackError("its attention uses dropout")
    segments.calls += 1
    segments.windowed_calls += sliding_window is not None
    # Rotary embeddings leave queries and keys in float32 under autocast; the product is in the autocast dtype.
    kind = query.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else value.dtype
    rows, keys, values = (tensor[0].transpose(0, 1).to(dtype) for tensor in (query, key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    shape = Shape(scale, softcap, sliding_window)
    attend = varlen.attend if varlen.covers(rows, values, shape) else blockwise.attend
    return attend(rows, keys, values, segments, shape)[None]
