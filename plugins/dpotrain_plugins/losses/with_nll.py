"""Losses with a supervised term, the negative log-likelihood (NLL) of the chosen answer; none needs a reference."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from dpotrain.plugin.api import Loss, LossWithoutBeta, PairScores
from dpotrain_plugins.losses.terms import mean_log_probs, negative_log_sigmoid

if TYPE_CHECKING:
    import torch

#: Largest mean log-prob that odds are computed of: at 0 they would be infinite.
_NEARLY_CERTAIN = -1e-6


class Sft(LossWithoutBeta):
    """Supervised fine-tuning on the chosen answers: ``loss = -log pi(w) / |w|``, the mean over the answer's tokens.

    Every pair counts the same, whatever its length; with ``per = "token"`` every token of the step does, so that the
    loss is ``-log pi(w)`` over the step's chosen tokens. As a term of a mix it is the NLL of iterative RPO (Pang et al.
    2024, arXiv 2404.19733). TRL's ``sft`` takes the mean over the tokens of a micro-batch. The rewards are mean
    log-probs.
    """

    name = "sft"
    needs_reference = False

    class Options(LossWithoutBeta.Options):
        per: Literal["pair", "token"] = Field(
            "pair",
            description='What counts the same: every pair, or every chosen token of a step. "token" couples the pairs '
            "of a step, which costs one forward more.",
        )

    options: Options

    def __init__(self, options: Loss.Options) -> None:
        super().__init__(options)
        self.couples_pairs = self.options.per == "token"

    def __call__(self, scores: PairScores) -> torch.Tensor:
        if self.options.per == "pair":
            return -mean_log_probs(scores)[0]
        tokens = scores.chosen_tokens
        return -scores.policy_chosen.float() * len(tokens) / tokens.sum()

    def rewards(self, scores: PairScores) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean log-probs."""
        return mean_log_probs(scores)


class Slic(LossWithoutBeta):
    """SLiC-HF (Zhao et al. 2023, arXiv 2305.10425): a hinge on log-probs, and an NLL term that keeps the model close.

    ``loss = max(0, delta - log pi(w) + log pi(l)) - weight * log pi(w)``. The paper regularizes towards the
    target of the supervised data; a pair has none, so it is the chosen answer here, as in the comparisons of SimPO.
    ``weight`` is the paper's lambda. The rewards are log-prob sums. ``hinge`` is the form with a reference; TRL
    has only that.
    """

    name = "slic"
    needs_reference = False

    class Options(LossWithoutBeta.Options):
        delta: float = Field(1.0, ge=0, description="By how many nats the chosen answer is to be ahead.")
        weight: float = Field(
            0.5, ge=0, description="Weight of the chosen answer's NLL, a sum over its tokens."
        )

    options: Options

    def __call__(self, scores: PairScores) -> torch.Tensor:
        chosen, rejected = self.rewards(scores)
        return (self.options.delta - chosen + rejected).clamp(min=0) - self.options.weight * chosen

    def rewards(self, scores: PairScores) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the log-prob sums."""
        return scores.policy_chosen.float(), scores.policy_rejected.float()


class Cpo(Loss):
    """CPO (Xu et al. 2024, arXiv 2401.08417, eq. 3 with its NLL term): DPO without a reference, beside the NLL.

    ``loss = -log sigmoid(beta * (log pi(w) - log pi(l))) - weight * log pi(w)``. The NLL is a sum over the answer's
    tokens, as the paper writes it; ``nll = "mean"`` divides by them, as the authors' code and TRL's experimental CPO do
    over a micro-batch. ``weight`` is TRL's ``cpo_alpha``. The rewards are beta times the log-probs.
    """

    name = "cpo"
    needs_reference = False

    class Options(Loss.Options):
        beta: float = Field(0.1, gt=0, description="Scale of the difference of the log-probs.")
        weight: float = Field(1.0, ge=0, description="Weight of the chosen answer's NLL.")
        nll: Literal["sum", "mean"] = Field("sum", description="Over the chosen answer's tokens.")

    options: Options

    def __call__(self, scores: PairScores) -> torch.Tensor:
        chosen, rejected = self.rewards(scores)
        likelihood = scores.policy_chosen.float() if self.options.nll == "sum" else mean_log_probs(scores)[0]
        return negative_log_sigmoid(chosen - rejected) - self.options.weight * likelihood

    def rewards(self, scores: PairScores) -> tuple[torch.Tensor, torch.Tensor]:
        """Return beta times the log-prob sums."""
        beta = self.options.beta
        return beta * scores.policy_chosen.float(), beta * scores.policy_rejected.float()


class Orpo(LossWithoutBeta):
    """ORPO (Hong et al. 2024, arXiv 2403.07691, eq. 6 and 7): supervised fine-tuning, and the odds of both answers.

    ``loss = -log pi(w) / |w| - weight * log sigmoid(log odds(w) - log odds(l))`` with ``odds = p / (1 - p)``,
    where ``p`` is the geometric mean of the tokens' probabilities. ``weight`` is the paper's lambda, TRL's
    ``beta``. The NLL is that of the answer, a mean for every pair; TRL's experimental ORPO takes it over prompts,
    too, and over a micro-batch. The rewards are the log odds.
    """

    name = "orpo"
    needs_reference = False

    class Options(LossWithoutBeta.Options):
        weight: float = Field(0.1, ge=0, description="Weight of the odds' term; the paper's lambda.")

    options: Options

    def __call__(self, scores: PairScores) -> torch.Tensor:
        chosen, rejected = self.rewards(scores)
        return -mean_log_probs(scores)[0] + self.options.weight * negative_log_sigmoid(chosen - rejected)

    def rewards(self, scores: PairScores) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the log odds of the geometric means of the tokens' probabilities."""
        chosen, rejected = (_log_odds(mean) for mean in mean_log_probs(scores))
        return chosen, rejected


def _log_odds(mean: torch.Tensor) -> torch.Tensor:
    """Return ``m - log(1 - exp(m))`` of mean log-probs ``m``, each way of log(1 - exp(m)) where it is exact."""
    import torch

    mean = mean.clamp(max=_NEARLY_CERTAIN)
    near_zero = (-mean.expm1()).log()
    return mean - torch.where(mean > -math.log(2), near_zero, (-mean.exp()).log1p())
