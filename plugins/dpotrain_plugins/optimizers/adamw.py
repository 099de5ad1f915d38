"""AdamW, and AdamW with its moments in 8 bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from dpotrain.plugin.api import Trained
from dpotrain_plugins.optimizers.decaying import Decay, DecayingOptimizer, adamw_lr

if TYPE_CHECKING:
    import torch

#: bitsandbytes keeps smaller tensors' moments in float32, and one float32 scale for every block of others.
_SMALLEST_IN_8_BITS, _BLOCK_OF_8_BITS = 4096, 256
#: It keeps smaller tensors' moments on the device.
_SMALLEST_PAGED = 100_000


class AdamW(DecayingOptimizer):
    """AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101), its moments in the dtype of the weights."""

    name = "adamw"
    smaller: ClassVar[str | None] = "adamw-8bit"

    class Options(DecayingOptimizer.Options):
        betas: tuple[Decay, Decay] = Field((0.9, 0.999), description="Decay of the two moments.")
        eps: float = Field(1e-8, gt=0, description="Added to the root of the second moment.")

    options: Options

    def build(self, weights: Mapping[str, torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Return torch's fused AdamW, with its moments allocated."""
        import torch

        optimizer = torch.optim.AdamW(self._groups(weights), fused=True, **self._settings())
        allocate_moments(optimizer)
        return optimizer

    def state_bytes(self, weights: Sequence[Trained]) -> int:
        """Count two moments in each weight's dtype, and a step count."""
        return sum(2 * weight.bytes + 4 for weight in weights)

    def usual_lr(self, adapter: bool) -> tuple[float, float]:
        return adamw_lr(adapter)

    def _settings(self) -> dict[str, Any]:
        return {"lr": self.options.lr, "betas": self.options.betas, "eps": self.options.eps}


class AdamW8bit(AdamW):
    """AdamW whose moments take 8 bits a number, of bitsandbytes (Dettmers et al. 2022, arXiv 2110.02861)."""

    name = "adamw-8bit"
    smaller = None

    def build(self, weights: Mapping[str, torch.nn.Parameter]) -> torch.optim.Optimizer:
        from dpotrain_plugins.optimizers.unsynchronized import UnsynchronizedAdamW8bit

        optimizer: torch.optim.Optimizer = UnsynchronizedAdamW8bit(self._groups(weights), **self._settings())
        return optimizer

    def state_bytes(self, weights: Sequence[Trained]) -> int:
        """Count two bytes a number and their scales, and two float32 numbers in small tensors."""
        return sum(
            8 * weight.numbers
            if weight.numbers < _SMALLEST_IN_8_BITS
            else 2 * (weight.numbers + 4 * -(-weight.numbers // _BLOCK_OF_8_BITS))
            for weight in weights
        )


class PagedAdamW8bit(AdamW8bit):
    """AdamW in 8 bits whose moments move to host memory while the GPU needs the room (QLoRA, arXiv 2305.14314).

    The updates are those of `adamw-8bit`. On a CPU there is nothing to page, and it is `adamw-8bit`.
    """

    name = "adamw-8bit-paged"

    def build(self, weights: Mapping[str, torch.nn.Parameter]) -> torch.optim.Optimizer:
        if all(weight.device.type == "cpu" for weight in weights.values()):
            return super().build(weights)
        from dpotrain_plugins.optimizers.paged import ResumablePagedAdamW8bit

        optimizer: torch.optim.Optimizer = ResumablePagedAdamW8bit(self._groups(weights), **self._settings())
        return optimizer

    def paged_bytes(self, weights: Sequence[Trained]) -> int:
        """Count two bytes a number of large tensors; scales and small tensors stay on the device."""
        return sum(2 * weight.numbers for weight in weights if weight.numbers >= _SMALLEST_PAGED)


def allocate_moments(optimizer: torch.optim.AdamW) -> None:
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
