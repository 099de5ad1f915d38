"""DPO with an offset from a column of the data (Amini et al. 2024, arXiv 2402.10571)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from dpotrain import hookimpl
from dpotrain.plugin.api import Loss, Measured, Metric, PairScores

if TYPE_CHECKING:
    import torch

dpotrain_interface = 2


class OffsetDpo(Loss):
    """``loss = -log sigmoid(beta * h - scale * gap)``: better answers are to be ahead by more.

    ``h`` is the difference of the two log-ratios, ``gap`` the column ``score_gap``: by how much the chosen answer is
    better. The loss of an untrained policy depends on the gaps, so there is no ``first_loss``.
    """

    name = "offset-dpo"
    columns = ("score_gap",)

    class Options(Loss.Options):
        scale: float = Field(1.0, ge=0, description="What gaps are multiplied by.")

    options: Options

    def __call__(self, scores: PairScores) -> torch.Tensor:
        from torch.nn.functional import softplus

        h = scores.chosen_logratio - scores.rejected_logratio
        return softplus(self.options.scale * scores.columns["score_gap"] - self.options.beta * h)


class Gap(Metric):
    """The mean gap, and the share of pairs with a gap in which the policy has moved towards the chosen answer."""

    name = "gap"
    columns = ("score_gap",)
    measures = ("gap", "accuracies")

    def __call__(self, scores: PairScores) -> Mapping[str, Measured]:
        gap, h = scores.columns["score_gap"], scores.chosen_logratio - scores.rejected_logratio
        return {"gap": gap, "accuracies": (h > 0, gap > 0)}


@hookimpl
def dpotrain_losses() -> list[type[Loss]]:
    return [OffsetDpo]


@hookimpl
def dpotrain_metrics() -> list[type[Metric]]:
    return [Gap]
