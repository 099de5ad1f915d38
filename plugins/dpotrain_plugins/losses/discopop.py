"""DiscoPOP: a blend of the logistic and the exponential loss that a language model found."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from dpotrain.plugin.api import Loss, PairScores
from dpotrain_plugins.losses.terms import logratios, negative_log_sigmoid

if TYPE_CHECKING:
    import torch


class DiscoPop(Loss):
    """DiscoPOP, the log-ratio modulated loss (Lu et al. 2024, arXiv 2406.08414, eq. 5).

    ``loss = (1 - s) * -log sigmoid(m) + s * exp(-m)`` with the margin ``m = beta * h`` and ``s = sigmoid(m / tau)``.
    It is logistic below a margin of 0, exponential above, and not convex where they meet: its slope at 0 is
    ``(1 - ln 2) / (4 tau) - 3 / 4``. Below a tau of 0.1 that is positive, so that a run whose policy begins as its
    reference first makes margins smaller, and may stay there where nothing but small noise moves them. TRL's
    ``discopop`` is the same, with ``discopop_tau`` for tau.
    """

    name = "discopop"
    of_difference = True

    class Options(Loss.Options):
        tau: float = Field(
            0.05,
            gt=0,
            le=1,
            description="Width of the change from one loss to the other; beyond 1 the loss would grow exponentially. "
            "Below 0.1 the loss rises with the margin around 0, where runs begin; a larger one does not.",
        )

    options: Options

    def __call__(self, scores: PairScores) -> torch.Tensor:
        from torch import sigmoid
        from torch.nn.functional import logsigmoid

        chosen, rejected = logratios(scores)
        margin = self.options.beta * (chosen - rejected)
        scaled = margin / self.options.tau
        # One exponential of both factors: exp(-margin) alone overflows where the sigmoid vanishes.
        return sigmoid(-scaled) * negative_log_sigmoid(margin) + (logsigmoid(scaled) - margin).exp()

    def first_loss(self) -> float:
        """Return ``ln 2 / 2 + 1 / 2``: both losses count half."""
        return (math.log(2) + 1) / 2
