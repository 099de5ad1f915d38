"""AdamW, with its moments in a dtype of choice or in 8 bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from dpotrain.plugin.api import Trained
from dpotrain_plugins.optimizers.decaying import Decay, DecayingOptimizer, adamw_lr

if TYPE_CHECKING:
    import torch

#: bitsandbytes keeps smaller tensors' moments in float32, and one float32 scale for every block of others.
_SMALLEST_IN_8_BITS, _BLOCK_OF_8_BITS = 4096, 256
#: It keeps smaller tensors' moments on the device.
_SMALLEST_PAGED = 100_000


class _AdamW(DecayingOptimizer):
    """What AdamW has however its moments are kept."""

    class Options(DecayingOptimizer.Options):
        betas: tuple[Decay, Decay] = Field((0.9, 0.999), description="Decay of the two moments.")
        eps: float = Field(1e-8, gt=0, description="Added to the root of the second moment.")

    options: Options

    def usual_lr(self, adapter: bool) -> tuple[float, float]:
        return adamw_lr(adapter)

    def _settings(self) -> dict[str, Any]:
        return {"lr": self.options.lr, "betas": self.options.betas, "eps": self.options.eps}


class AdamW(_AdamW):
    """AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101), its moments in the dtype of the weights or in another.

    Moments in bfloat16 take half the memory of those in float32. They are rounded stochastically: rounded to the
    nearest, a second moment stays where it is, because the steps that `betas = [0.9, 0.999]` gives it are smaller than
    the distance to the next number.
    """

    name = "adamw"
    smaller: ClassVar[str | None] = "adamw-8bit"
    elementwise = True

    class Options(_AdamW.Options):
        state_dtype: Literal["auto", "float32", "bfloat16"] = Field(
            "auto",
            description='Dtype of the two moments. "auto": that of each weight. Updates are computed in float32; '
            '"bfloat16" rounds the moments stochastically, "auto" rounds those of weights in bfloat16 to the nearest.',
        )

    options: Options

    def build(self, weights: Mapping[str, torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Return torch's fused AdamW, or the one that keeps moments in another dtype, with its moments allocated."""
        import torch

        if self.options.state_dtype != "auto":
            from dpotrain_plugins.optimizers.state_dtype import StateDtypeAdamW

            dtype = getattr(torch, self.options.state_dtype)
            # torch's own is the same where weights are in float32, too.
            if dtype != torch.float32 or any(weight.dtype != dtype for weight in weights.values()):
                return StateDtypeAdamW(self._groups(weights), state_dtype=dtype, **self._settings())
        optimizer = torch.optim.AdamW(self._groups(weights), fused=True, **self._settings())
        allocate_moments(optimizer)
        return optimizer

    def state_bytes(self, weights: Sequence[Trained]) -> int:
        """Count two moments in their dtype, and a step count."""
        each = {"float32": 4, "bfloat16": 2}.get(self.options.state_dtype)
        return sum(2 * weight.numbers * (each or weight.bytes_each) + 4 for weight in weights)


class AdamW8bit(_AdamW):
    """AdamW whose moments take 8 bits a number, of bitsandbytes (Dettmers et al. 2022, arXiv 2110.02861)."""

    name = "adamw-8bit"

    def build(self, weights: Mapping[str, torch.nn.Parameter]) -> torch.optim.Optimizer:
        from dpotrain_plugins.optimizers.eight_bits import BatchedAdamW8bit

        optimizer: torch.optim.Optimizer = BatchedAdamW8bit(self._groups(weights), **self._settings())
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
