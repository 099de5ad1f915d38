"""Sigmoid DPO whose margin is shifted: by what the chosen answer lost, by a column, by lengths, by a factor."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from dpotrain.plugin.api import Loss, PairScores
from dpotrain_plugins.losses.terms import logratios, negative_log_sigmoid

if TYPE_CHECKING:
    import torch

#: Nats; a chosen answer that lost less has lost nothing but rounding, as all have before the first update.
SMALLEST_FALL = 1e-3


class Dpop(Loss):
    """DPO-Positive (Pal et al. 2024, "Smaug", arXiv 2402.13228, eq. 3): no gain from a chosen answer that gets rarer.

    ``loss = -log sigmoid(beta * (h - penalty * max(0, -c)))`` with the log-ratio ``c`` of the chosen answer;
    ``penalty`` is the paper's lambda. For pairs whose answers differ in a few tokens. The defaults are those of the
    paper's experiments. A ``c`` above -0.001 nats has no penalty, so that rounding does not decide on which side of 0
    the pairs of the first step are. Metrics show DPO's rewards, without the penalty.
    """

    name = "dpop"

    class Options(Loss.Options):
        beta: float = Field(0.3, gt=0, description="Strength of the pull towards the reference.")
        penalty: float = Field(
            50.0,
            ge=0,
            description="Nats off the margin for every nat that the chosen answer lost; the paper's lambda.",
        )

    options: Options

    def __call__(self, scores: PairScores) -> torch.Tensor:
        chosen, rejected = logratios(scores)
        lost = (-chosen).where(chosen < -SMALLEST_FALL, 0)
        return negative_log_sigmoid(self.options.beta * (chosen - rejected - self.options.penalty * lost))

    def first_loss(self) -> float:
        """Return ln 2: the margin is zero, and nothing is lost."""
        return math.log(2)


class Odpo(Loss):
    """DPO with an offset (Amini et al. 2024, arXiv 2402.10571, eq. 5): better pairs are to be further apart.

    ``loss = -log sigmoid(beta * h - alpha * margin)``, where ``margin`` is a number of the pair, mapped by
    ``data.columns = { margin = "…" }``. The paper's margin is the log of the difference of two scores; put what you
    want as offset into the column, as it is taken as it stands.
    """

    name = "odpo"
    of_difference = True
    columns = ("margin",)

    class Options(Loss.Options):
        alpha: float = Field(1.0, ge=0, description="What the pair's margin is multiplied with.")

    options: Options

    def __call__(self, scores: PairScores) -> torch.Tensor:
        chosen, rejected = logratios(scores)
        offset = self.options.alpha * scores.columns["margin"].float()
        return negative_log_sigmoid(self.options.beta * (chosen - rejected) - offset)


class RDpo(Loss):
    """Length-regularized DPO (Park et al. 2024, arXiv 2403.19159): longer is not better by itself.

    ``loss = -log sigmoid(beta * h + alpha * (|w| - |l|))`` with the scored tokens ``|w|`` of chosen and ``|l|`` of
    rejected. It is DPO for a reward of which ``alpha`` is taken off for every token: a chosen answer that is longer
    needs a smaller margin, so that it is learned less. Some texts have the opposite sign, which would favour long
    answers. Metrics show DPO's rewards.
    """

    name = "r-dpo"
    of_difference = True

    class Options(Loss.Options):
        alpha: float = Field(0.01, ge=0, description="Penalty of a token, in units of reward.")

    options: Options

    def __call__(self, scores: PairScores) -> torch.Tensor:
        chosen, rejected = logratios(scores)
        longer = (scores.chosen_tokens - scores.rejected_tokens).float()
        return negative_log_sigmoid(self.options.beta * (chosen - rejected) + self.options.alpha * longer)

    def first_loss(self) -> float | None:
        """Return ln 2 where alpha is 0; else there is no number that holds for pairs of all lengths."""
        return None if self.options.alpha else math.log(2)


class DpoShift(Loss):
    """DPO-Shift (Yang et al. 2025, arXiv 2502.07599): the rejected answer's reward counts less.

    ``loss = -log sigmoid(beta * (c - f * r))`` with the log-ratios ``c`` and ``r`` of chosen and rejected: the chosen
    answer's log-prob is kept up, at some cost of margin. ``f`` is ``rejected_share``, the paper's f(lambda); with
    ``last_rejected_share`` it changes linearly over the run, as in the paper's linear strategies.
    """

    name = "dpo-shift"

    class Options(Loss.Options):
        rejected_share: float = Field(
            0.75, gt=0, le=1, description="Share of the rejected answer's reward that counts; 1 is DPO."
        )
        last_rejected_share: float | None = Field(
            None,
            gt=0,
            le=1,
            description="The share at the end of the run, reached linearly; the same unless set.",
        )

    options: Options

    def __call__(self, scores: PairScores) -> torch.Tensor:
        chosen, rejected = logratios(scores)
        return negative_log_sigmoid(self.options.beta * (chosen - self._share(scores) * rejected))

    def _share(self, scores: PairScores) -> float:
        first, last = self.options.rejected_share, self.options.last_rejected_share
        if last is None or scores.step <= 1:
            return first
        return first + (last - first) * (scores.step - 1) / scores.total_steps

    def first_loss(self) -> float:
        """Return ln 2: both rewards are zero."""
        return math.log(2)
