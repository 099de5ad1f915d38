"""peft's LoRA layer over a plain linear layer, with fewer passes over the activations.

peft computes ``base(x) + B(A(x)) * scaling`` with a copy of ``x`` in the adapter's float32, a product, a scaled copy
of it and a sum. Here the scaling is applied to the rank-sized middle, and the last product adds onto the base's
output in place. Under autocast ``x`` stays as it is, so that layers that share an input (queries, keys, values)
share what is kept of it for the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear, LoraLayer
from torch import nn


class FusedLinear(Linear):  # type: ignore[misc]
    """The same layer: state, merging and saving are peft's own, and so is every forward but the plain one."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Map (..., in) to (..., out) in the base layer's dtype."""
        adapter = plain_adapter(self)
        if adapter is None or args or kwargs or self._rounds(x, adapter):
            result: torch.Tensor = super().forward(x, *args, **kwargs)
            return result
        down, up = self.lora_A[adapter].weight, self.lora_B[adapter].weight
        output: torch.Tensor = self.base_layer(x)
        middle = nn.functional.linear(self.lora_dropout[adapter](x), down)
        middle = (middle * self.scaling[adapter]).to(output.dtype).flatten(0, -2)
        # Nobody else holds the base's output, and no backward pass reads it.
        output.view(-1, output.shape[-1]).addmm_(middle, up.to(output.dtype).t())
        return output

    def _rounds(self, x: torch.Tensor, adapter: str) -> bool:
        """Whether adding onto the base's output would round the adapter's gradients, which peft has in its own dtype.

        Under autocast both round them.
        """
        dtype = self.lora_A[adapter].weight.dtype
        return (
            not torch.is_autocast_enabled(x.device.type)
            and not dtype == x.dtype == self.base_layer.weight.dtype
        )


def plain_adapter(layer: LoraLayer) -> str | None:
    """Return a layer's one active adapter where it is an ordinary LoRA, unmerged and on."""
    if layer.disable_adapters or layer.merged or len(layer.active_adapters) != 1:
        return None
    (adapter,) = layer.active_adapters
    plain = adapter in layer.lora_A and adapter not in layer.lora_variant and not layer.lora_bias[adapter]
    return adapter if plain else None


def fuse(policy: nn.Module) -> None:
    """Make every plain LoRA layer of a peft model a fused one, in place."""
    for module in policy.modules():
        # A hook of the base layer may keep the output that is added onto.
        if (
            type(module) is Linear
            and type(base := module.base_layer) is nn.Linear
            and not base._forward_hooks
        ):
            module.__class__ = FusedLinear
