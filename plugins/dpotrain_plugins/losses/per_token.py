"""Losses of means over tokens, so that long and short answers are held to one standard."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field, model_validator

from dpotrain.plugin.api import Loss, LossWithoutBeta, PairScores
from dpotrain_plugins.losses.terms import (
    mean_log_probs,
    mean_logratios,
    negative_log_sigmoid,
)

if TYPE_CHECKING:
    import torch

#: Largest exponent in a shaped reward: beyond it exp would leave float32, and no answer of a model is so unlikely.
_LARGEST_EXPONENT = 60.0


class DpoNorm(Loss):
    """Length-normalized DPO (Lambert et al. 2024, "Tülu 3", arXiv 2411.15124, section 5).

    ``loss = -log sigmoid(beta * (c / |w| - r / |l|))`` with the log-ratios ``c`` and ``r`` of chosen and rejected
    over their scored tokens. Means are small, so beta is large: 5 in Tülu 3 and OLMo. TRL's ``sigmoid_norm`` is the
    same; its rewards are not normalized, those here are.
    """

    name = "dpo-norm"

    class Options(Loss.Options):
        beta: float = Field(5.0, gt=0, description="Strength of the pull towards the reference, per token.")

    options: Options

    def __call__(self, scores: PairScores) -> torch.Tensor:
        chosen, rejected = self.rewards(scores)
        return negative_log_sigmoid(chosen - rejected)

    def rewards(self, scores: PairScores) -> tuple[torch.Tensor, torch.Tensor]:
        """Return beta times the log-ratios per token."""
        chosen, rejected = mean_logratios(scores)
        return self.options.beta * chosen, self.options.beta * rejected

    def first_loss(self) -> float:
        """Return ln 2: the margin is zero."""
        return math.log(2)


class Simpo(Loss):
    """SimPO (Meng et al. 2024, arXiv 2405.14734, eq. 6): mean log-probs as rewards, and a target margin.

    ``loss = -log sigmoid(beta * log pi(w) / |w| - beta * log pi(l) / |l| - gamma)``, without a reference. Gamma can be
    given as a share of beta, as the authors tune it. TRL has it in its experimental CPO, with ``simpo_gamma`` for gamma
    and ``cpo_alpha = 0``.
    """

    name = "simpo"
    needs_reference = False

    class Options(Loss.Options):
        beta: float = Field(2.0, gt=0, description="Scale of the rewards, which are means over tokens.")
        gamma: float | None = Field(None, ge=0, description="By how much the chosen reward is to be ahead.")
        gamma_beta_ratio: float | None = Field(
            None, ge=0, description="The same as a share of beta; 0.25 unless one of the two is set."
        )
        default_ratio: ClassVar[float] = 0.25

        @model_validator(mode="after")
        def _one_margin(self) -> Self:
            """Refuse two margins."""
            if self.gamma is not None and self.gamma_beta_ratio is not None:
                raise ValueError(
                    "gamma and gamma_beta_ratio are two ways to set one margin; keep one of them"
                )
            return self

        @property
        def target(self) -> float:
            """The margin that the loss aims at."""
            if self.gamma is not None:
                return self.gamma
            ratio = self.default_ratio if self.gamma_beta_ratio is None else self.gamma_beta_ratio
            return ratio * self.beta

    options: Options

    def __call__(self, scores: PairScores) -> torch.Tensor:
        chosen, rejected = self.rewards(scores)
        return negative_log_sigmoid(chosen - rejected - self.options.target)

    def rewards(self, scores: PairScores) -> tuple[torch.Tensor, torch.Tensor]:
        """Return beta times the mean log-probs."""
        chosen, rejected = mean_log_probs(scores)
        return self.options.beta * chosen, self.options.beta * rejected


class AlphaPo(Simpo):
    """AlphaPO (Gupta et al. 2025, arXiv 2501.03884): SimPO with rewards of another shape.

    ``loss = -log sigmoid(reward(w) - reward(l) - gamma)`` with ``reward(y) = beta * (1 - p**-alpha) / alpha``, where
    ``p`` is the geometric mean of the tokens' probabilities, without a reference. As alpha goes to 0 it becomes
    SimPO's ``beta * log p``. The defaults are those of the paper's Mistral Instruct. TRL has it in its experimental
    CPO, with ``alpha``, ``simpo_gamma`` for gamma and ``cpo_alpha = 0``.
    """

    name = "alphapo"

    class Options(Simpo.Options):
        beta: float = Field(2.5, gt=0, description="Scale of the rewards.")
        gamma_beta_ratio: float | None = Field(
            None, ge=0, description="The same as a share of beta; 0.04 unless one of the two is set."
        )
        alpha: float = Field(
            0.25,
            ge=-5,
            le=5,
            description="Shape of the reward; 0 is SimPO, more is steeper for unlikely answers.",
        )
        default_ratio: ClassVar[float] = 0.04

    options: Options

    def rewards(self, scores: PairScores) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the shaped rewards."""
        chosen, rejected = mean_log_probs(scores)
        return self._shaped(chosen), self._shaped(rejected)

    def _shaped(self, mean: torch.Tensor) -> torch.Tensor:
        """Return the reward of mean log-probs, (pairs,)."""
        beta, alpha = self.options.beta, self.options.alpha
        if alpha == 0:
            return beta * mean
        return -beta / alpha * (-alpha * mean).clamp(max=_LARGEST_EXPONENT).expm1()


class Simper(LossWithoutBeta):
    """SimPER (Xiao et al. 2025, arXiv 2502.00883): the inverse perplexities, without a reference or any key.

    ``loss = -exp(log pi(w) / |w|) + exp(log pi(l) / |l|)``. The rewards are the inverse perplexities; the authors' code
    logs mean log-probs, which rank the same.
    """

    name = "simper"
    needs_reference = False

    def __call__(self, scores: PairScores) -> torch.Tensor:
        chosen, rejected = self.rewards(scores)
        return rejected - chosen

    def rewards(self, scores: PairScores) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the inverse perplexities, at most 1."""
        chosen, rejected = (mean.clamp(max=0).exp() for mean in mean_log_probs(scores))
        return chosen, rejected
