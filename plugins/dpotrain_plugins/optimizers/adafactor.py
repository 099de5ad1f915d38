"""Adafactor: a second moment of a row and a column instead of a matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from dpotrain.plugin.api import Trained
from dpotrain_plugins.optimizers.decaying import DecayingOptimizer, adamw_lr

if TYPE_CHECKING:
    import torch


class Adafactor(DecayingOptimizer):
    """Adafactor (Shazeer & Stern 2018, arXiv 1804.04235), of transformers: hardly any state, and no first moment.

    As other trainers have it, the step size is `lr` times the schedule: it follows neither the step nor, unless
    `scale_parameter`, the size of the weights. Updates are not averaged over steps, and therefore larger than AdamW's
    at the same `lr`: begin at a quarter to a half of AdamW's.
    """

    name = "adafactor"

    class Options(DecayingOptimizer.Options):
        scale_parameter: bool = Field(
            False,
            description="Multiply each update by the root mean square of its weight, at least 1e-3, as the paper "
            "does. `lr` is then relative; the paper has 1e-2.",
        )
        clip_threshold: float = Field(
            1.0, gt=0, description="Highest root mean square of an update, before it is multiplied by `lr`."
        )
        decay_rate: float = Field(
            -0.8, lt=0, description="In step t the second moment decays by 1 - t ** decay_rate."
        )

    options: Options

    def build(self, weights: Mapping[str, torch.nn.Parameter]) -> torch.optim.Optimizer:
        from dpotrain_plugins.optimizers.float32_adafactor import Float32Adafactor

        optimizer: torch.optim.Optimizer = Float32Adafactor(
            self._groups(weights),
            lr=self.options.lr,
            clip_threshold=self.options.clip_threshold,
            decay_rate=self.options.decay_rate,
            scale_parameter=self.options.scale_parameter,
            relative_step=False,
        )
        return optimizer

    def state_bytes(self, weights: Sequence[Trained]) -> int:
        """Count float32 numbers: those of rows and columns, all of a vector, and the size of each weight."""
        return sum(4 * (_moment(weight) + 1) for weight in weights)

    def usual_lr(self, adapter: bool) -> tuple[float, float] | None:
        return None if self.options.scale_parameter else adamw_lr(adapter)


def _moment(weight: Trained) -> int:
    """Return how many numbers the second moment of a weight has."""
    if len(weight.shape) < 2:
        return weight.numbers
    *_, rows, columns = weight.shape
    return weight.numbers // columns + weight.numbers // rows
