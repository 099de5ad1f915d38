"""Linear layers of which full training in bfloat16 keeps less: casts are made again, or shared, instead of kept.

Autocast keeps a bfloat16 copy of every trained float32 weight until its backward pass: half the size of all weights.
And where several layers read one float32 input, as queries, keys and values do a norm's output, it keeps a copy of it
for each. Here the backward pass casts weights once more, and layers that read the same input one after the other share
its copy. Outputs and gradients have the same bits.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from dpotrain.engine.layers.checkpointing import decoder_layers
from dpotrain.engine.scoring.scorer import causal_lm


def cast_again(model: nn.Module) -> int:
    """Replace the forwards of linear layers whose float32 weights are trained, in place; return how many.

    These are plain ones inside decoder layers, without hooks. An adapter's own, whose weights are small, stay as they
    are. State, names and classes for ``isinstance`` stay. The model may be on the meta device.
    """
    if causal_lm(model) is not model:
        return 0
    members = {"__module__": __name__, "inputs": _LastInput()}
    replaced = type("Linear", (_Linear, nn.Linear), members)
    found = [
        module
        for layer in decoder_layers(model)
        for module in layer.modules()
        if type(module) is nn.Linear
        and module.weight.requires_grad
        and module.weight.dtype == torch.float32
        and "forward" not in vars(module)
        and not (module._forward_hooks or module._forward_pre_hooks)
    ]
    for module in found:
        module.__class__ = replaced
    return len(found)


class _LastInput:
    """The bfloat16 copy of the input that was cast last."""

    def __init__(self) -> None:
        self._input: weakref.ref[torch.Tensor] | None = None
        self._version = 0
        self._copy: torch.Tensor | None = None

    def cast(self, rows: torch.Tensor) -> torch.Tensor:
        """Return ``rows`` in bfloat16, without gradients."""
        if rows.dtype == torch.bfloat16:
            return rows.detach()
        known = self._input is not None and self._input() is rows and self._version == rows._version
        if self._copy is None or not known:
            self._copy = rows.detach().to(torch.bfloat16)
            self._input, self._version = weakref.ref(rows, self._forget), rows._version
        return self._copy

    def _forget(self, gone: weakref.ref[torch.Tensor]) -> None:
        if gone is self._input:
            self._input = self._copy = None


class _Linear:
    """The forward of a linear layer."""

    inputs: _LastInput
    weight: nn.Parameter
    bias: nn.Parameter | None

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        kind = input.device.type
        casts = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.bfloat16
        if not (casts and torch.is_grad_enabled() and self.weight.requires_grad):
            return F.linear(input, self.weight, self.bias)
        copy = self.inputs.cast(input)
        output: torch.Tensor = _Product.apply(input, copy, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return output


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, copy: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(copy, weight)
        ctx.dtype = rows.dtype
        return F.linear(copy, weight.to(copy.dtype), None if bias is None else bias.to(copy.dtype))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        copy, weight = ctx.saved_tensors
        of_rows, _, of_weight, of_bias = ctx.needs_input_grad
        steep = grad.flatten(0, -2)
        drows = dweight = dbias = None
        if of_rows:
            drows = (steep @ weight.to(copy.dtype)).view(copy.shape).to(ctx.dtype)
        if of_weight:
            dweight = (steep.t() @ copy.flatten(0, -2)).to(weight.dtype)
        if of_bias:
            dbias = steep.sum(0).to(weight.dtype)
        return drows, None, dweight, dbias
