"""The ``length`` metrics: whether a policy learns which answer is better, or which is longer.

Sums of log-probs favour long answers, and preference data often prefers them, so DPO is prone to learn length for
quality (Park et al. 2024, arXiv 2403.19159).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dpotrain import hookimpl
from dpotrain.plugin.api import Measured, Metric, PairScores

if TYPE_CHECKING:
    import torch


dpotrain_interface = 2


class Length(Metric):
    """Margins per token, and accuracies of pairs whose chosen answer is the longer or the shorter one.

    ``margins`` are differences of log-ratios per scored token, in nats, without beta, and ``accuracies`` the share of
    pairs in which they are positive. ``accuracies_chosen_longer`` and ``accuracies_chosen_shorter`` are
    ``rewards/accuracies`` of only those pairs: far apart, the policy prefers by length.
    """

    name = "length"
    measures = (
        "margins",
        "accuracies",
        "accuracies_chosen_longer",
        "accuracies_chosen_shorter",
        "chosen_tokens",
        "rejected_tokens",
    )

    def __call__(self, scores: PairScores) -> Mapping[str, Measured]:
        margins = (
            scores.chosen_logratio / scores.chosen_tokens - scores.rejected_logratio / scores.rejected_tokens
        )
        right = _positive(scores.chosen_logratio - scores.rejected_logratio)
        return {
            "margins": margins,
            "accuracies": _positive(margins),
            "accuracies_chosen_longer": (right, scores.chosen_tokens > scores.rejected_tokens),
            "accuracies_chosen_shorter": (right, scores.chosen_tokens < scores.rejected_tokens),
            "chosen_tokens": scores.chosen_tokens,
            "rejected_tokens": scores.rejected_tokens,
        }


def _positive(margins: torch.Tensor) -> torch.Tensor:
    """Return 1 for a positive margin and one half for a tie, which is neither right nor wrong."""
    return (margins > 0).float() + 0.5 * (margins == 0).float()


@hookimpl
def dpotrain_metrics() -> list[type[Metric]]:
    return [Length]
