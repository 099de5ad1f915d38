"""peft's LoRA layer over bitsandbytes' 4-bit linear layer, with fewer passes over the activations.

peft computes ``base(x).clone() + B(A(x)) * scaling`` in tensors of the output's size, and its backward pass two
gradients of ``x`` that are added. Here one function of autograd adds the low-rank product onto the base's output, and
its gradient onto the base's, in place. The weight is dequantized once a pass.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit as Base
from peft.tuners.lora.bnb import Linear4bit
from torch import nn

from .fused import plain_adapter


class FusedLinear4bit(Linear4bit):  # type: ignore[misc]
    """The same layer: state, merging and saving are peft's own, and so is every forward but the plain one."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Map (..., in) to (..., out) in the dtype of ``x``."""
        adapter = plain_adapter(self)
        # A compiler fuses by itself, and cannot trace a function that calls a module.
        if adapter is None or args or kwargs or torch.compiler.is_compiling():
            result: torch.Tensor = super().forward(x, *args, **kwargs)
            return result
        down, up = self.lora_A[adapter].weight, self.lora_B[adapter].weight
        dropped = self.lora_dropout[adapter](x)
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else down.dtype
        output: torch.Tensor = _Adapted.apply(  # type: ignore[no-untyped-call]
            x, None if dropped is x else dropped, down, up, self.base_layer, self.scaling[adapter], dtype
        )
        return output


class _Adapted(torch.autograd.Function):
    """``layer(rows) + scaling * dropped @ down.T @ up.T``, without gradients of the layer's weights.

    ``rows`` and ``dropped`` are (..., in), ``down`` is (rank, in), ``up`` (out, rank); without ``dropped`` it is
    ``rows``. The low-rank products are in ``dtype``, and added in that of ``rows``, which is the output's.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: torch.Tensor,
        dropped: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        layer: Base,
        scaling: float,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        output: torch.Tensor = layer(rows)  # without gradients, as the reference is computed
        given = rows if dropped is None else dropped
        cast = given.to(dtype)
        middle = nn.functional.linear(cast, down.to(dtype)).flatten(0, -2).mul_(scaling)
        # Nobody else holds the base's output.
        output.view(-1, output.shape[-1]).addmm_(middle.to(output.dtype), up.to(output.dtype).t())
        # The smaller of both; `given` itself where there was no cast, which other layers that read it keep as well.
        kept = given if given.element_size() < cast.element_size() else cast
        ctx.save_for_backward(kept, middle, down, up)
        ctx.scaling, ctx.layer = scaling, layer
        ctx.compute_dtype, ctx.dtypes = layer.compute_dtype or rows.dtype, (rows.dtype, given.dtype)
        return output

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        kept, middle, down, up = ctx.saved_tensors
        of_rows, of_dropped, of_down, of_up, *_ = ctx.needs_input_grad
        dtype, steep = middle.dtype, grad.flatten(0, -2)
        narrow = steep.to(dtype)
        dmiddle = (narrow @ up.to(dtype)).mul_(ctx.scaling)
        drows = ddropped = ddown = dup = None
        if of_up:
            dup = (narrow.t() @ middle).to(up.dtype)
        if of_down:
            ddown = (dmiddle.t() @ kept.flatten(0, -2).to(dtype)).to(down.dtype)
        if of_dropped:
            ddropped = (dmiddle @ down.to(dtype)).view(kept.shape).to(ctx.dtypes[1])
        if of_rows:
            wide, compute = ctx.dtypes[0], ctx.compute_dtype
            drows = (steep.to(compute) @ _dequantized(ctx.layer, compute)).to(wide)
            if not of_dropped:
                drows.addmm_(dmiddle.to(wide), down.to(wide))
            drows = drows.view(kept.shape)
        return drows, ddropped, ddown, dup, None, None, None


def _dequantized(layer: Base, dtype: torch.dtype) -> torch.Tensor:
    """Return the weight (out, in) as products in ``dtype`` have it."""
    state = copy.copy(layer.weight.quant_state)
    state.dtype = dtype
    weight: torch.Tensor = dequantize_4bit(layer.weight.data.view(-1, 1), state)
    return weight


def fuse_4bit(policy: nn.Module) -> None:
    """Make every plain LoRA layer over a frozen 4-bit layer of a peft model a fused one, in place."""
    for module in policy.modules():
        # A hook of the base layer may keep the output that is added onto.
        if (
            type(module) is Linear4bit
            and type(base := module.base_layer) is Base
            and not base._forward_hooks
            and not any(weight.requires_grad for weight in base.parameters())
            and tuple(base.weight.quant_state.shape) == (base.out_features, base.in_features)
        ):
            module.__class__ = FusedLinear4bit
