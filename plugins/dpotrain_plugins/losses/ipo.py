"""IPO: a squared distance to a fixed margin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpotrain.plugin.api import Loss, PairScores

if TYPE_CHECKING:
    import torch


class Ipo(Loss):
    """IPO (Azar et al. 2023, arXiv 2310.12036, eq. 17): ``loss = (h - 1 / (2 * beta))**2``.

    The log-ratios in ``h`` are averaged over the completion's scored tokens, not summed: the target
    ``1 / (2 * beta)`` is one number for all pairs, so sums would hold long and short completions to different
    standards. ``beta`` is the paper's tau.
    """

    name = "ipo"

    def __call__(self, scores: PairScores) -> torch.Tensor:
        chosen = scores.chosen_logratio.float() / scores.chosen_tokens
        rejected = scores.rejected_logratio.float() / scores.rejected_tokens
        return (chosen - rejected - 1 / (2 * self.options.beta)).square()

    def first_loss(self) -> float:
        """Return ``1 / (4 * beta**2)``."""
        return 1 / (2 * self.options.beta) ** 2
