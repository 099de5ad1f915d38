"""Norms and gated feed-forward blocks that save less for the backward pass, and read their data less often.

Autograd saves nearly every intermediate of both. Here a norm saves its input and one number a row, a block the outputs
of its two projections; the rest is recomputed. The forward pass is the model's own, operation for operation, and each
kind of module is checked to give the same bits before it is replaced. A module that computes anything else stays.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

#: Width of the projections that replace a block's own in the check.
_SMALL = 16
_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


def rms_norm(hidden: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Return ``weight * hidden / rms(hidden)`` (arXiv:1910.07467, equation 4), the root in float32.

    ``hidden`` and the result are (..., size), ``weight`` is (size,); ``epsilon`` is added to the mean square. The
    result has the dtype to which those of ``weight`` and ``hidden`` promote.
    """
    output: torch.Tensor = _RmsNorm.apply(hidden, weight, epsilon)  # type: ignore[no-untyped-call]
    return output


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Return ``silu(gate) * up`` (arXiv:2002.05202, equation 6) of two tensors of one shape and dtype."""
    output: torch.Tensor = _SwiGlu.apply(gate, up)  # type: ignore[no-untyped-call]
    return output


def use_memory_efficient_layers(model: nn.Module) -> int:
    """Replace the forwards of modules that are proven to be such a norm or block, in place; return how many.

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
            module.__class__ = type(
                type(module).__name__, (efficient, type(module)), {"__module__": efficient.__module__}
            )
            replaced += 1
    return replaced


class _Norm:
    """The forward of a norm with the attributes of most models' RMSNorm."""

    weight: torch.Tensor
    variance_epsilon: float

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return rms_norm(hidden_states, self.weight, self.variance_epsilon)


class _Block:
    """The forward of a feed-forward block with the attributes of most models' MLP."""

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))
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
        try:
            expected, got = stand_in(rows), efficient.forward(stand_in, rows)  # type: ignore[arg-type]
        except (TypeError, ValueError, RuntimeError, AttributeError, IndexError):
            return False
        if not isinstance(expected, torch.Tensor) or expected.dtype != got.dtype or not expected.equal(got):
            return False
    return True


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        wide = hidden.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
        # Not in place where `wide` is the input itself.
        normal = wide * scale if wide is hidden else wide.mul_(scale)
        ctx.save_for_backward(hidden, weight, scale)
        return weight * normal.to(hidden.dtype)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, scale = ctx.saved_tensors
        normal = hidden.float() * scale
        dweight = None
        if ctx.needs_input_grad[1]:
            rows = (grad.float() * normal).flatten(0, -2)
            dweight = rows.sum(0).to(weight.dtype)
        # With n the normalized row and g the gradient times the weight: (g - n * mean(n * g)) / rms.
        steep = grad.float() * weight.float()
        along = (steep * normal).mean(-1, keepdim=True)
        return steep.addcmul_(normal, along, value=-1).mul_(scale).to(hidden.dtype), dweight, None


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up = ctx.saved_tensors
        dup = F.silu(gate).mul_(grad)
        return torch.ops.aten.silu_backward(grad * up, gate), dup
