"""Losses for preferences of which some are the wrong way round: robust DPO and EXO."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from dpotrain.plugin.api import Loss, PairScores
from dpotrain_plugins.losses.terms import logratios, negative_log_sigmoid

if TYPE_CHECKING:
    import torch


class Robust(Loss):
    """Robust DPO (Chowdhury et al. 2024, arXiv 2403.00409, section 3), unbiased under random flips of labels.

    ``loss = (-(1 - e) * log sigmoid(beta * h) + e * log sigmoid(-beta * h)) / (1 - 2 * e)``, where ``e`` is the
    probability that a label is flipped. Its expectation over flips is DPO's loss on the true labels, whereas label
    smoothing of ``dpo`` is biased towards margins of 0. Unlike that, it falls without bound as the margin grows.
    TRL's ``robust`` is the same.
    """

    name = "robust"
    of_difference = True

    class Options(Loss.Options):
        label_smoothing: float = Field(
            0.1, ge=0, lt=0.5, description="Probability that a pair's preference is the wrong way round."
        )

    options: Options

    def __call__(self, scores: PairScores) -> torch.Tensor:
        chosen, rejected = logratios(scores)
        margin, flips = self.options.beta * (chosen - rejected), self.options.label_smoothing
        kept, flipped = negative_log_sigmoid(margin), negative_log_sigmoid(-margin)
        return ((1 - flips) * kept - flips * flipped) / (1 - 2 * flips)

    def first_loss(self) -> float:
        """Return ln 2: both terms are multiples of it, and their factors add up to 1."""
        return math.log(2)


class Exo(Loss):
    """EXO on pairs (Ji et al. 2024, arXiv 2402.00856, eq. 16): the reverse KL to the smoothed label.

    ``loss = KL((p, 1 - p) || (1 - e, e))`` with ``p = sigmoid(beta * h)``. DPO takes the KL the other way round, which
    covers modes; this one seeks them. ``beta`` is the paper's beta_pi. TRL's ``exo_pair`` is the same. The authors'
    code has the labels (1, exp(-10)), whose sum is a little more than 1.
    """

    name = "exo"
    of_difference = True

    class Options(Loss.Options):
        label_smoothing: float = Field(
            1e-3,
            gt=0,
            lt=0.5,
            description="Probability that the label gives to the rejected answer; with 0 the loss would be infinite.",
        )

    options: Options

    def __call__(self, scores: PairScores) -> torch.Tensor:
        from torch import sigmoid
        from torch.nn.functional import logsigmoid

        chosen, rejected = logratios(scores)
        margin, smoothing = self.options.beta * (chosen - rejected), self.options.label_smoothing
        for_chosen = sigmoid(margin) * (logsigmoid(margin) - math.log1p(-smoothing))
        return for_chosen + sigmoid(-margin) * (logsigmoid(-margin) - math.log(smoothing))

    def first_loss(self) -> float:
        """Return the KL of (1/2, 1/2) to the label: ``-ln 2 - (ln(1 - e) + ln e) / 2``."""
        smoothing = self.options.label_smoothing
        return -math.log(2) - (math.log1p(-smoothing) + math.log(smoothing)) / 2
