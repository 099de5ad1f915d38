"""Lion: updates by the sign of a running mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from dpotrain.plugin.api import Trained
from dpotrain_plugins.optimizers.decaying import Decay, DecayingOptimizer

if TYPE_CHECKING:
    import torch


class Lion(DecayingOptimizer):
    """Lion (Chen et al. 2023, arXiv 2302.06675), of bitsandbytes: half of AdamW's state, one moment in float32.

    `lr * sign(b1 m + (1 - b1) g)` is subtracted: every number of every weight moves by `lr`. It takes a third to a
    tenth of AdamW's learning rate, and three to ten times its weight decay.
    """

    name = "lion"
    elementwise = True

    class Options(DecayingOptimizer.Options):
        betas: tuple[Decay, Decay] = Field(
            (0.9, 0.99), description="How much of the moment is in an update, and its decay."
        )

    options: Options

    def build(self, weights: Mapping[str, torch.nn.Parameter]) -> torch.optim.Optimizer:
        from dpotrain_plugins.optimizers.unsynchronized import UnsynchronizedLion32bit

        optimizer: torch.optim.Optimizer = UnsynchronizedLion32bit(
            self._groups(weights), lr=self.options.lr, betas=self.options.betas
        )
        return optimizer

    def state_bytes(self, weights: Sequence[Trained]) -> int:
        """Count one float32 number each."""
        return sum(4 * weight.numbers for weight in weights)

    def usual_lr(self, adapter: bool) -> tuple[float, float]:
        """Return a tenth of AdamW's lowest rate, and a third of its highest."""
        return (1e-7, 3e-4) if adapter else (1e-9, 3e-5)
