"""The hinge on the normalized margin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpotrain.plugin.api import Loss, PairScores

if TYPE_CHECKING:
    import torch


class Hinge(Loss):
    """Hinge on the normalized margin: ``loss = max(0, 1 - beta * h)``.

    SLiC's rank calibration (Zhao et al. 2023, arXiv 2305.10425) in the form that RSO gives it with a
    reference (Liu et al. 2023, arXiv 2309.06657, "hinge-norm"; ``beta`` is their gamma).
    """

    name = "hinge"
    of_difference = True

    def __call__(self, scores: PairScores) -> torch.Tensor:
        margin = self.options.beta * (scores.chosen_logratio - scores.rejected_logratio).float()
        return (1 - margin).clamp(min=0)

    def first_loss(self) -> float:
        """Return 1: the margin is zero."""
        return 1.0
