"""The built-in losses: sigmoid DPO with label smoothing, IPO, and the hinge.

Each is a function of one pair's log-ratios alone. With ``h`` the difference of the two log-ratios,

    h = log pi(y_w|x)/ref(y_w|x) - log pi(y_l|x)/ref(y_l|x),

``beta * h`` is the margin between the rewards that DPO makes implicit.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from dpotrain import hookimpl
from dpotrain.plugin.api import Loss

if TYPE_CHECKING:
    import torch

    from dpotrain.plugin.api import PairScores

dpotrain_interface = 1


class Dpo(Loss):
    """Sigmoid DPO (Rafailov et al. 2023, arXiv 2305.18290, eq. 7), conservative DPO with label smoothing.

    ``loss = -(1 - e) * log sigmoid(beta * h) - e * log sigmoid(-beta * h)``, where ``e`` is the share of
    pairs whose label is taken to be wrong (Mitchell 2023, "A note on DPO with noisy preferences", eq. 3).
    """

    name = "dpo"

    class Options(Loss.Options):  # noqa: D106
        label_smoothing: float = Field(
            0.0,
            ge=0,
            lt=0.5,
            description="Share of pairs whose preference is assumed to be the wrong way round.",
        )

    options: Options

    def __call__(self, scores: PairScores) -> torch.Tensor:  # noqa: D102
        from torch.nn.functional import logsigmoid

        margin = self.options.beta * (scores.chosen_logratio - scores.rejected_logratio).float()
        smoothing = self.options.label_smoothing
        return -(1 - smoothing) * logsigmoid(margin) - smoothing * logsigmoid(-margin)

    def first_loss(self) -> float:
        """Return ln 2: both sigmoids are one half, whatever the smoothing."""
        return math.log(2)


class Ipo(Loss):
    """IPO (Azar et al. 2023, arXiv 2310.12036, eq. 17): ``loss = (h - 1 / (2 * beta))**2``.

    The log-ratios in ``h`` are averaged over the completion's scored tokens, not summed: the target
    ``1 / (2 * beta)`` is one number for all pairs, so sums would hold long and short completions to different
    standards. ``beta`` is the paper's tau.
    """

    name = "ipo"

    def __call__(self, scores: PairScores) -> torch.Tensor:  # noqa: D102
        chosen = scores.chosen_logratio.float() / scores.chosen_tokens
        rejected = scores.rejected_logratio.float() / scores.rejected_tokens
        return (chosen - rejected - 1 / (2 * self.options.beta)).square()

    def first_loss(self) -> float:
        """Return ``1 / (4 * beta**2)``."""
        return 1 / (2 * self.options.beta) ** 2


class Hinge(Loss):
    """Hinge on the normalized margin: ``loss = max(0, 1 - beta * h)``.

    SLiC's rank calibration (Zhao et al. 2023, arXiv 2305.10425) in the form that RSO gives it with a
    reference (Liu et al. 2023, arXiv 2309.06657, "hinge-norm"; ``beta`` is their gamma).
    """

    name = "hinge"

    def __call__(self, scores: PairScores) -> torch.Tensor:  # noqa: D102
        margin = self.options.beta * (scores.chosen_logratio - scores.rejected_logratio).float()
        return (1 - margin).clamp(min=0)

    def first_loss(self) -> float:
        """Return 1: the margin is zero."""
        return 1.0


@hookimpl
def dpotrain_losses() -> list[type[Loss]]:
    """Offer the three."""
    return [Dpo, Ipo, Hinge]
