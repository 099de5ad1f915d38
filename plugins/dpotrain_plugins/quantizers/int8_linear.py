"""A frozen linear layer of 8-bit weights, whose gradient costs no memory for weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dpotrain.plugin.api import RunError


class Int8Linear(nn.Linear):
    """``quantized * scale`` in the place of a weight: (out, in) int8, and one float32 number for every row, (out, 1).

    A linear layer becomes one by :func:`convert`. Computes in autocast's dtype, or the input's without: the same with
    gradients and without.
    """

    quantized: nn.Parameter
    scale: torch.Tensor

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """The weight that it stands for, (out, in) float32; computed anew each time, so changing it changes nothing."""
        return self.quantized * self.scale

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (..., in) to (..., out)."""
        device = hidden.device.type
        # Left to autocast, the integers would become float32 on the way to 16 bits.
        if torch.is_autocast_enabled(device):
            hidden = hidden.to(torch.get_autocast_dtype(device))
        output: torch.Tensor = _Product.apply(hidden, self.quantized, self.scale)  # type: ignore[no-untyped-call]
        return output if self.bias is None else output + self.bias.to(output.dtype)


class _Product(torch.autograd.Function):
    """``hidden @ (quantized * scale).T``; the float form of the integers is made anew for the backward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, quantized: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(quantized, scale)
        product = nn.functional.linear(hidden, quantized.to(hidden.dtype))
        # In place, in float32, rounded once; integers of 8 bits are exact in any dtype.
        return product.mul_(scale[:, 0])

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        quantized, scale = ctx.saved_tensors
        scaled = torch.mul(gradient, scale[:, 0], out=torch.empty_like(gradient))
        return scaled @ quantized.to(gradient.dtype), None, None


def convert(model: nn.Module) -> dict[str, nn.Linear]:
    """Make every linear layer with a weight of torchao's 8 bits one of these, in place; return them by name.

    Raises:
        RunError: torchao has rounded a weight in another way, as a checkpoint that was saved quantized may have it.
    """
    from torchao.quantization import Int8Tensor

    found: dict[str, nn.Linear] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and isinstance(weight := layer.weight, Int8Tensor):
            if not _is_row_wise(weight):
                raise RunError(
                    f"the checkpoint has {name} in 8 bits of torchao that have no scale for each row alone, or round "
                    "activations too, and cannot be trained beside.\nName the original weights in model.name."
                )
            del layer.weight
            layer.register_parameter("quantized", nn.Parameter(weight.qdata, requires_grad=False))
            layer.register_buffer("scale", weight.scale, persistent=False)
            layer.__class__ = Int8Linear
            found[name] = layer
    return found


def _is_row_wise(weight: Any) -> bool:
    """Whether such a weight is its integers times a scale for each row, and leaves activations as they are."""
    shifted = weight.zero_point is not None and bool(weight.zero_point.any())
    plain = weight.act_quant_kwargs is None and weight.act_pre_scale is None
    return weight.scale.shape == (weight.shape[0], 1) and plain and not shifted


def dequantized(model: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Make them ordinary layers of the rounded weights, in place; return the model."""
    for layer in model.modules():
        if isinstance(layer, Int8Linear):
            weight = nn.Parameter(layer.weight.to(dtype), requires_grad=False)
            del layer.quantized, layer.scale
            layer.__class__ = nn.Linear  # type: ignore[assignment]
            layer.register_parameter("weight", weight)
    return model
