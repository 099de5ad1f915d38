"""Norms, gated feed-forward blocks and rotary embeddings that save less for the backward pass and read data less often.

Their functions are those of :mod:`dpotrain.engine.kernels`: plain code, or Triton kernels where these are chosen (see
:mod:`.choose_kernels`). The plain code's forward pass is the model's own, operation for operation, and each kind of
module is checked to give the same bits before it is replaced. A module that computes anything else stays.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import FunctionType
from typing import Any, cast

import torch
from torch import nn

from dpotrain.engine.kernels import plain

#: Width of the projections that replace a block's own in the check.
_SMALL = 16
_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
#: The function of transformers' modeling files that rotates queries and keys: their attention looks it up by this name.
_ROTATE = "apply_rotary_pos_emb"
_CANNOT = (TypeError, ValueError, RuntimeError, AttributeError, IndexError)

Rotary = Callable[..., tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Functions:
    """What replaced modules compute with; see :mod:`dpotrain.engine.kernels.plain`."""

    rms_norm: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor] = plain.rms_norm
    swiglu: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = plain.swiglu
    rotary: Rotary = plain.rotary


def use_memory_efficient_layers(model: nn.Module) -> int:
    """Replace the forwards of modules that are proven to be such a norm, block or attention; return how many.

    State, names and classes for ``isinstance`` stay. Modules with hooks, or whose forward is replaced already, are
    left alone. The model may be on the meta device.
    """
    proven: dict[tuple[Any, ...], bool] = {}
    replaced = 0
    for module in model.modules():
        efficient = _candidate(module)
        if efficient is None:
            continue
        kind = (type(module), *_settings(module))
        if kind not in proven:
            proven[kind] = _same_bits(module, efficient)
        if proven[kind]:
            _replace(module, efficient)
            replaced += 1
    return replaced + _replace_rotations(model)


def functions_of(model: nn.Module) -> set[str]:
    """Return the names of those :class:`Functions` that a model's replaced modules use."""
    kinds = {"rms_norm": _Norm, "swiglu": _Block, "rotary": _Attention}
    return {name for name, kind in kinds.items() if any(isinstance(each, kind) for each in model.modules())}


def use_functions(model: nn.Module, functions: Functions) -> None:
    """Have a model's replaced modules compute with other functions than the plain code."""
    for module in model.modules():
        if isinstance(module, _Norm | _Block):
            module.functions = functions
        elif isinstance(module, _Attention):
            module.__class__ = _rotating_class(module.replaced, module.rotation.own, functions.rotary)


def _replace(module: nn.Module, efficient: type[_Norm | _Block]) -> None:
    kind: Any = type(module)
    module.__class__ = _efficient_class(kind, efficient)


@cache  # the same class again for another layer: a compiled layer serves only layers with modules of its own classes
def _efficient_class(kind: type[nn.Module], efficient: type[_Norm | _Block]) -> type[nn.Module]:
    return type(kind.__name__, (efficient, kind), {"__module__": efficient.__module__})


class _Norm:
    """The forward of a norm with the attributes of most models' RMSNorm."""

    functions = Functions()
    weight: torch.Tensor
    variance_epsilon: float

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.functions.rms_norm(hidden_states, self.weight, self.variance_epsilon)


class _Block:
    """The forward of a feed-forward block with the attributes of most models' MLP."""

    functions = Functions()
    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.down_proj(self.functions.swiglu(self.gate_proj(x), self.up_proj(x)))
        return output


def _candidate(module: nn.Module) -> type[_Norm | _Block] | None:
    if isinstance(module, _Norm | _Block) or "forward" in vars(module):
        return None
    if module._forward_hooks or module._forward_pre_hooks:
        return None
    if len(inspect.signature(type(module).forward).parameters) != 2:  # self and the rows
        return None  # a gated norm, which without a gate gives the same bits
    parameters = dict(module.named_parameters(recurse=False))
    if isinstance(getattr(module, "variance_epsilon", None), float) and list(parameters) == ["weight"]:
        return _Norm if not list(module.children()) and module.weight.ndim == 1 else None
    if not parameters and all(isinstance(getattr(module, name, None), nn.Module) for name in _PROJECTIONS):
        return _Block
    return None


def _settings(module: nn.Module) -> tuple[Any, ...]:
    """Return the settings in which modules of one class may differ: each combination is checked by itself."""
    plain = [
        (name, value) for name, value in vars(module).items() if isinstance(value, (bool, int, float, str))
    ]
    return (tuple(plain), tuple(type(child) for child in module.children()))


def _same_bits(module: nn.Module, efficient: type[_Norm | _Block]) -> bool:
    """Whether both forwards give the same bits on some rows, with small projections in place of the module's own."""
    random = torch.Generator().manual_seed(0)  # leaves the global generator alone

    def numbers(*shape: int) -> torch.Tensor:
        # Large enough for rounding to show, and for activation functions to differ.
        return 3 * torch.randn(*shape, generator=random)

    for dtype in (torch.float32, torch.bfloat16):
        stand_in = copy.copy(module)
        if efficient is _Norm:
            own = module.get_parameter("weight")
            size = len(own)
            weight = numbers(size).to(own.dtype)
            stand_in._parameters = {"weight": nn.Parameter(weight, requires_grad=False)}
        else:
            size = _SMALL
            parts = {name: nn.Linear(size, size, bias=False, device="meta") for name in _PROJECTIONS}
            for part in parts.values():
                part.weight = nn.Parameter(numbers(size, size).to(dtype), requires_grad=False)
            stand_in._modules = {**module._modules, **parts}
        rows = numbers(1, 3, size).to(dtype)
        replaced = copy.copy(stand_in)
        _replace(replaced, efficient)
        try:
            expected, got = stand_in(rows), replaced(rows)
        except _CANNOT:
            return False
        if not isinstance(expected, torch.Tensor) or expected.dtype != got.dtype or not expected.equal(got):
            return False
    return True


@dataclass(frozen=True, slots=True)
class _Rotation:
    """Rotates queries and keys: ``rotary`` for the arguments that it knows, ``own`` for all others."""

    own: Rotary
    rotary: Rotary

    def __call__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        known = (
            not args
            and not kwargs
            and (q.ndim, k.ndim, cos.ndim) == (4, 4, 3)
            and cos.shape == sin.shape
            and cos.shape[0] in (1, q.shape[0])
            and k.shape[0] == q.shape[0]
            and cos.shape[1:] == q.shape[2:] == k.shape[2:]
            and q.dtype == k.dtype
            and cos.dtype == sin.dtype
            and not (cos.requires_grad or sin.requires_grad)
        )
        return self.rotary(q, k, cos, sin) if known else self.own(q, k, cos, sin, *args, **kwargs)


class _Attention:
    """An attention module of the class ``replaced`` whose forward rotates queries and keys by ``rotation``."""

    replaced: type[nn.Module]
    rotation: _Rotation


def _replace_rotations(model: nn.Module) -> int:
    """Replace how attention modules rotate queries and keys where that is proven; return how many."""
    proven: dict[Rotary, bool] = {}
    count = 0
    for module in model.modules():
        kind: Any = type(module)
        if isinstance(module, _Attention) or "forward" in vars(module):
            continue
        own = _rotation_of(kind.forward)
        if own is None:
            continue
        if own not in proven:
            proven[own] = _rotates_alike(own)
        if proven[own]:
            module.__class__ = _rotating_class(kind, own, plain.rotary)
            count += 1
    return count


@cache
def _rotating_class(kind: type[nn.Module], own: Rotary, rotary: Rotary) -> type[nn.Module]:
    rotation = _Rotation(own, rotary)
    members = {
        "__module__": kind.__module__,  # where eager attention is looked up
        "replaced": kind,
        "rotation": rotation,
        "forward": _rotating_by(rotation, cast(FunctionType, kind.forward)),
    }
    return type(kind.__name__, (_Attention, kind), members)


def _rotation_of(forward: FunctionType) -> Rotary | None:
    """Return the function by which an attention module's forward rotates; None where none is known.

    Also None where a norm follows: under autocast the plain code returns another dtype, which only attention hides.
    """
    if not isinstance(forward, FunctionType) or _ROTATE not in forward.__code__.co_names:
        return None  # a decorated forward is not a function of the modeling file's
    names = forward.__code__.co_names  # in the order in which they are used
    if any("norm" in name for name in names[names.index(_ROTATE) :]):
        return None
    own: Rotary | None = forward.__globals__.get(_ROTATE)
    return own


def _rotating_by(rotation: _Rotation, forward: FunctionType) -> FunctionType:
    """Return a copy of a forward that finds another function under the name; the file's own globals stay."""
    names = {**forward.__globals__, _ROTATE: rotation}
    # By this name a compiler would look up the globals in the file.
    del names["__name__"]
    copied = FunctionType(
        forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__
    )
    copied.__kwdefaults__ = forward.__kwdefaults__
    copied.__annotations__ = forward.__annotations__
    copied.__doc__, copied.__qualname__ = forward.__doc__, forward.__qualname__
    copied.__module__ = forward.__module__
    return copied


def _rotates_alike(own: Rotary) -> bool:
    """Whether a function rotates queries and keys as the plain code does, bit for bit, in each mixture of dtypes."""
    random = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, heads, 3, _SMALL, generator=random) for heads in (4, 2))
    cos, sin = torch.randn(2, 1, 3, _SMALL, generator=random)
    for rows, tables in (
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.bfloat16, torch.bfloat16),
    ):
        inputs = query.to(rows), key.to(rows), cos.to(tables), sin.to(tables)
        try:
            expected: Any = own(*inputs)
            got = plain.rotary(*inputs)
        except _CANNOT:
            return False
        if not isinstance(expected, tuple) or len(expected) != 2:
            return False
        if not all(
            isinstance(one, torch.Tensor) and one.dtype == other.dtype and one.equal(other)
            for one, other in zip(expected, got, strict=True)
        ):
            return False
    return True
