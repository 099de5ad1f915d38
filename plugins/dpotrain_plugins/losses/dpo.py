"""Sigmoid DPO, and conservative DPO with label smoothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from dpotrain.plugin.api import Loss, PairScores

if TYPE_CHECKING:
    import torch


class Dpo(Loss):
    """Sigmoid DPO (Rafailov et al. 2023, arXiv 2305.18290, eq. 7), conservative DPO with label smoothing.

    ``loss = -(1 - e) * log sigmoid(beta * h) - e * log sigmoid(-beta * h)``, where ``e`` is the share of
    pairs whose label is taken to be wrong (Mitchell 2023, "A note on DPO with noisy preferences", eq. 3).
    """

    name = "dpo"
    of_difference = True

    class Options(Loss.Options):
        label_smoothing: float = Field(
            0.0,
            ge=0,
            lt=0.5,
            description="Share of pairs whose preference is assumed to be the wrong way round.",
        )

    options: Options

    def __call__(self, scores: PairScores) -> torch.Tensor:
        return self._of_margin(
            self.options.beta * (scores.chosen_logratio - scores.rejected_logratio).float()
        )

    def _of_margin(self, margin: torch.Tensor) -> torch.Tensor:
        """Return the loss of margins between rewards, of their shape."""
        from torch.nn.functional import logsigmoid

        smoothing = self.options.label_smoothing
        return -(1 - smoothing) * logsigmoid(margin) - smoothing * logsigmoid(-margin)

    def first_loss(self) -> float:
        """Return ln 2: both sigmoids are one half, whatever the smoothing."""
        return math.log(2)
