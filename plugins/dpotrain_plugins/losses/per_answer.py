"""Losses that judge each answer by its own reward, not only by the difference of the two.

Losses of the difference alone may let the log-probs of both answers fall; these say where each of them is to go.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from dpotrain.plugin.api import Loss, PairScores
from dpotrain_plugins.losses.running import RunningLoss
from dpotrain_plugins.losses.terms import logratios, negative_log_sigmoid

if TYPE_CHECKING:
    import torch


class Nca(Loss):
    """NCA on pairs (Chen et al. 2024, arXiv 2402.05369): noise contrastive estimation of each answer's reward.

    ``loss = -log sigmoid(c) - log sigmoid(-c) / 2 - log sigmoid(-r) / 2`` with the rewards ``c`` and ``r``, beta times
    the log-ratios of chosen and rejected. The chosen answer's reward has its optimum at a finite value. TRL's
    ``nca_pair`` is the same.
    """

    name = "nca"

    def __call__(self, scores: PairScores) -> torch.Tensor:
        chosen, rejected = (self.options.beta * ratio for ratio in logratios(scores))
        noise = negative_log_sigmoid(-chosen) + negative_log_sigmoid(-rejected)
        return negative_log_sigmoid(chosen) + noise / 2

    def first_loss(self) -> float:
        """Return 2 ln 2: every sigmoid is one half."""
        return 2 * math.log(2)


class Bco(RunningLoss):
    """BCO on pairs (Jung et al. 2024, arXiv 2404.04656): a classifier that tells chosen from rejected answers.

    ``loss = -log sigmoid(c - delta) - log sigmoid(delta - r)`` with the rewards ``c`` and ``r``, beta times the
    log-ratios of chosen and rejected. ``delta`` is the paper's reward shift, the mean of all rewards of the run so far,
    the present step's among them, without gradients; or 0 with ``running_mean = false``, which is TRL's ``bco_pair``.
    An evaluation has the mean of the steps before it.
    """

    name = "bco"

    class Options(Loss.Options):
        running_mean: bool = Field(
            True,
            description="Take the running mean of the rewards off them. It couples the pairs of a step, which costs "
            "one forward more.",
        )

    options: Options

    def __init__(self, options: Loss.Options) -> None:
        super().__init__(options)
        self.couples_pairs = self.options.running_mean

    def __call__(self, scores: PairScores) -> torch.Tensor:
        chosen, rejected = (self.options.beta * ratio for ratio in logratios(scores))
        delta = self._shift(chosen, rejected) if self.options.running_mean else 0.0
        return negative_log_sigmoid(chosen - delta) + negative_log_sigmoid(delta - rejected)

    def _shift(self, chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        """Return the mean of all rewards, in training with those of the step, each (pairs,), among them; () float64."""
        from torch import float64, int64

        total, count = self.running or (
            chosen.new_zeros((), dtype=float64),
            chosen.new_zeros((), dtype=int64),
        )
        total, count = total.to(chosen.device), count.to(chosen.device)
        if not chosen.requires_grad:
            return total / count.clamp(min=1)
        total = total + (chosen.detach().double() + rejected.detach().double()).sum()
        count = count + 2 * len(chosen)
        self.keep(total, count)
        return total / count

    def first_loss(self) -> float:
        """Return 2 ln 2: both sigmoids are one half."""
        return 2 * math.log(2)


class Sppo(Loss):
    """SPPO with hard labels (Wu et al. 2024, arXiv 2405.00675, eq. 4.7 with P = 1 for chosen and 0 for rejected).

    ``loss = (c - 1 / (2 * beta))**2 + (r + 1 / (2 * beta))**2`` with the log-ratios ``c`` and ``r`` of chosen and
    rejected, so that each reward beta times log-ratio is pulled to 1/2 or -1/2. ``beta`` is 1 / eta of the paper, whose
    eta is 1000. The targets are nats of whole answers: with a small beta they are far away, the loss is large, and
    ``training.max_grad_norm`` decides how long the steps are. TRL's ``sppo_hard`` is the same.
    """

    name = "sppo"

    class Options(Loss.Options):
        beta: float = Field(
            1e-3,
            gt=0,
            description="The log-ratio of chosen is pulled to 1 / (2 * beta) nats, rejected to minus that.",
        )

    options: Options

    def __call__(self, scores: PairScores) -> torch.Tensor:
        return calibration(scores, self.options.beta)

    def first_loss(self) -> float:
        """Return ``1 / (2 * beta**2)``: both log-ratios are ``1 / (2 * beta)`` away from their targets."""
        return 1 / (2 * self.options.beta**2)


class CalDpo(Loss):
    """Cal-DPO (Xiao et al. 2024, arXiv 2412.14516, eq. 10 and algorithm 1): DPO with calibrated log-ratios.

    ``loss = -log sigmoid(c - r) + calibration_weight * ((c - 1 / (2 * beta))**2 + (r + 1 / (2 * beta))**2)`` with the
    log-ratios ``c`` and ``r`` of chosen and rejected. There is no beta in the sigmoid: it is in the targets. The
    weight is 1 in the paper and 1/2 in the authors' code.
    """

    name = "cal-dpo"

    class Options(Loss.Options):
        beta: float = Field(
            0.1,
            gt=0,
            description="The log-ratio of chosen is pulled to 1 / (2 * beta) nats, rejected to minus that.",
        )
        calibration_weight: float = Field(
            1.0, ge=0, description="Weight of the two squared distances to the targets."
        )

    options: Options

    def __call__(self, scores: PairScores) -> torch.Tensor:
        chosen, rejected = logratios(scores)
        squares = calibration(scores, self.options.beta)
        return negative_log_sigmoid(chosen - rejected) + self.options.calibration_weight * squares

    def first_loss(self) -> float:
        """Return ``ln 2 + calibration_weight / (2 * beta**2)``."""
        return math.log(2) + self.options.calibration_weight / (2 * self.options.beta**2)


class ApoZero(Loss):
    """APO-zero (D'Oosterlinck et al. 2024, arXiv 2408.06266, eq. 7): chosen more likely, rejected less likely.

    ``loss = -sigmoid(c) + sigmoid(r)`` with the rewards ``c`` and ``r``, beta times the log-ratios of chosen and
    rejected. For chosen answers that are better than the model's own. TRL's ``apo_zero`` is the same plus 1.
    """

    name = "apo-zero"

    def __call__(self, scores: PairScores) -> torch.Tensor:
        chosen, rejected = (self.options.beta * ratio for ratio in logratios(scores))
        return rejected.sigmoid() - chosen.sigmoid()

    def first_loss(self) -> float:
        """Return 0: both sigmoids are one half."""
        return 0.0


class ApoDown(Loss):
    """APO-down (D'Oosterlinck et al. 2024, arXiv 2408.06266, eq. 8): both less likely, rejected much less.

    ``loss = sigmoid(c) - sigmoid(c - r)`` with the rewards ``c`` and ``r``, beta times the log-ratios of chosen and
    rejected. For chosen answers that are worse than the model's own. TRL's ``apo_down`` is the same plus 1.
    """

    name = "apo-down"

    def __call__(self, scores: PairScores) -> torch.Tensor:
        chosen, rejected = (self.options.beta * ratio for ratio in logratios(scores))
        return chosen.sigmoid() - (chosen - rejected).sigmoid()

    def first_loss(self) -> float:
        """Return 0: both sigmoids are one half."""
        return 0.0


def calibration(scores: PairScores, beta: float) -> torch.Tensor:
    """Return ``(c - 1 / (2 * beta))**2 + (r + 1 / (2 * beta))**2`` of the log-ratios, (pairs,) float32."""
    chosen, rejected = logratios(scores)
    target = 1 / (2 * beta)
    return (chosen - target).square() + (rejected + target).square()
