"""The built-in optimizers: AdamW, and AdamW with its moments in 8 bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from dpotrain import hookimpl
from dpotrain.plugin.api import Optimizer, Trained

if TYPE_CHECKING:
    import torch


dpotrain_interface = 2

#: How much of a running mean stays in each step.
Decay = Annotated[float, Field(ge=0, lt=1)]

#: bitsandbytes keeps smaller tensors' moments in float32, and one float32 scale for every block of others.
_SMALLEST_IN_8_BITS, _BLOCK_OF_8_BITS = 4096, 256


class AdamW(Optimizer):
    """AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101), its moments in the dtype of the weights."""

    name = "adamw"
    smaller: ClassVar[str | None] = "adamw-8bit"

    class Options(Optimizer.Options):
        betas: tuple[Decay, Decay] = Field((0.9, 0.999), description="Decay of the two moments.")
        eps: float = Field(1e-8, gt=0, description="Added to the root of the second moment.")
        weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay; not on biases and norms.")

    options: Options

    def build(self, weights: Mapping[str, torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Return torch's fused AdamW, with its moments allocated."""
        import torch

        optimizer = torch.optim.AdamW(self._groups(weights), fused=True, **self._settings())
        _allocate_moments(optimizer)
        return optimizer

    def state_bytes(self, weights: Sequence[Trained]) -> int:
        """Count two moments in each weight's dtype, and a step count."""
        return sum(2 * weight.bytes + 4 for weight in weights)

    def usual_lr(self, adapter: bool) -> tuple[float, float]:
        return (1e-6, 1e-3) if adapter else (1e-8, 1e-4)

    def _groups(self, weights: Mapping[str, torch.nn.Parameter]) -> list[dict[str, Any]]:
        """Spare vectors (biases, norms) weight decay, as usual: shrinking them regularizes nothing."""
        matrices = [weight for weight in weights.values() if weight.ndim >= 2]
        vectors = [weight for weight in weights.values() if weight.ndim < 2]
        groups = (matrices, self.options.weight_decay), (vectors, 0.0)
        return [{"params": params, "weight_decay": decay} for params, decay in groups if params]

    def _settings(self) -> dict[str, Any]:
        return {"lr": self.options.lr, "betas": self.options.betas, "eps": self.options.eps}


class AdamW8bit(AdamW):
    """AdamW whose moments take 8 bits a number, of bitsandbytes (Dettmers et al. 2022, arXiv 2110.02861)."""

    name = "adamw-8bit"
    smaller = None

    def build(self, weights: Mapping[str, torch.nn.Parameter]) -> torch.optim.Optimizer:
        import bitsandbytes

        optimizer: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(
            self._groups(weights), **self._settings()
        )
        return optimizer

    def state_bytes(self, weights: Sequence[Trained]) -> int:
        """Count two bytes a number and their scales, and two float32 numbers in small tensors."""
        return sum(
            8 * weight.numbers
            if weight.numbers < _SMALLEST_IN_8_BITS
            else 2 * (weight.numbers + 4 * -(-weight.numbers // _BLOCK_OF_8_BITS))
            for weight in weights
        )


def _allocate_moments(optimizer: torch.optim.AdamW) -> None:
    """Give every weight the state that the first step would give it.

    There, it would come to lie between the freed activations of that step, where a CPU's allocator then lacks room
    for the next step's. And where memory is too small for it, that is better known before the first step.
    """
    import torch

    for group in optimizer.param_groups:
        for weight in group["params"]:
            optimizer.state[weight] = {
                "step": torch.zeros((), dtype=torch.float32, device=weight.device),
                "exp_avg": torch.zeros_like(weight, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(weight, memory_format=torch.preserve_format),
            }


@hookimpl
def dpotrain_optimizers() -> list[type[Optimizer]]:
    return [AdamW, AdamW8bit]
