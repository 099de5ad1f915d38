"""Segment attention as an attention implementation of transformers.

It is registered once per implementation that it replaces, and gets the segments as a forward argument. A call without
segments (``generate``, an ordinary forward) goes to the replaced implementation with its mask.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from dpotrain.data.batches.segments import Segments
from dpotrain.engine.attention import blockwise, operator, varlen
from dpotrain.engine.attention.blockwise import Shape
from dpotrain.engine.attention.head_exchange import HeadExchange

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PREFIX = "dpotrain_packed_over_"

#: The implementations that registered ones replace, by their registered names.
_replaced: dict[str, str] = {}

#: True while a packed forward builds its masks (of which it needs none).
_packing: ContextVar[bool] = ContextVar("dpotrain_packing", default=False)

#: Counts the calls of segment attention, while somebody does. Not a context variable, which a compiler cannot trace.
_calls: Calls | None = None


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


@dataclass
class Calls:
    """Calls of segment attention, which detect a model that ignores it."""

    all: int = 0
    windowed: int = 0
    """Those in which the model asked for a sliding window."""


@contextmanager
def counting() -> Iterator[Calls]:
    """Count the calls of segment attention inside this context, by models that are not compiled."""
    global _calls
    _calls = calls = Calls()
    try:
        yield calls
    finally:
        _calls = None


def install(model: PreTrainedModel) -> None:
    """Switch a model to packed attention over its present implementation; a second call changes nothing.

    Raises:
        CannotPackError: the model does not accept custom attention implementations.
    """
    present = model.config._attn_implementation or "eager"
    if present in _replaced:
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
    if present in _replaced:
        model.set_attn_implementation(_replaced[present])


def _register(underlying: str) -> str:
    """Register segment attention over an implementation once, and return its name."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    # transformers takes "flash" anywhere in a name for a request to import flash-attn, and a slash for a repository.
    name = PREFIX + re.sub(r"\W", "_", underlying).replace("flash", "fast")
    if name in _replaced:
        return name
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
            with _called(module, underlying):
                result: tuple[torch.Tensor, torch.Tensor | None] = ordinary(
                    module, query, key, value, attention_mask, **kwargs
                )
            return result
        return _attend(module, query, key, value, segments, **kwargs), None

    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, mask)
    _replaced[name] = underlying
    return name


@contextmanager
def _called(module: torch.nn.Module, implementation: str) -> Iterator[None]:
    """Have the module's configuration name an implementation: those of flash-attn look there which they are."""
    if "flash" not in implementation:
        yield
        return
    config: Any = module.config
    present = config._attn_implementation_internal
    config._attn_implementation_internal = implementation
    try:
        yield
    finally:
        config._attn_implementation_internal = present


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segments: Segments,
    *,
    exchange: HeadExchange | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    s_aux: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    **_: Any,
) -> torch.Tensor:
    """Attend over segments: query (1, heads, T, size), key and value (1, groups, T, size) to (1, T, heads, size).

    With ``exchange`` T is C, the tokens of this rank in a row that is divided over several.
    """
    if s_aux is not None:
        raise CannotPackError("its attention has sinks")
    if position_bias is not None:
        raise CannotPackError("its attention adds a bias by position")
    if not (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        raise CannotPackError("its attention is not causal")
    if dropout:
        raise CannotPackError("its attention uses dropout")
    if _calls is not None:
        _calls.all += 1
        _calls.windowed += sliding_window is not None
    # Rotary embeddings leave queries and keys in float32 under autocast; the product is in the autocast dtype.
    kind = query.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else value.dtype
    rows, keys, values = (tensor[0].transpose(0, 1).to(dtype) for tensor in (query, key, value))
    if exchange is not None:
        rows, keys, values = exchange.to_heads(rows, keys, values)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    shape = Shape(scale, softcap, sliding_window)
    attend = varlen.choose(rows, values, segments, shape)
    if attend is None:
        # Neither a compiler nor fake tensors can follow what depends on the lengths.
        opaque = torch.compiler.is_compiling() or isinstance(rows, torch._subclasses.FakeTensor)
        attend = operator.attend if opaque else blockwise.attend
    output = attend(rows, keys, values, segments, shape)
    return (output if exchange is None else exchange.to_tokens(output))[None]
