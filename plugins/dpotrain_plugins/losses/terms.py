"""What the losses of several families are written in: log-ratios and mean log-probs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpotrain.plugin.api import PairScores

if TYPE_CHECKING:
    import torch


def logratios(scores: PairScores) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log pi / ref of chosen and rejected, each (pairs,) float32 nats."""
    return scores.chosen_logratio.float(), scores.rejected_logratio.float()


def mean_logratios(scores: PairScores) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log pi / ref per scored token of chosen and rejected, each (pairs,) float32 nats."""
    chosen, rejected = logratios(scores)
    return chosen / scores.chosen_tokens, rejected / scores.rejected_tokens


def mean_log_probs(scores: PairScores) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the policy's log-prob per scored token of chosen and rejected, each (pairs,) float32 nats."""
    return (
        scores.policy_chosen.float() / scores.chosen_tokens,
        scores.policy_rejected.float() / scores.rejected_tokens,
    )


def negative_log_sigmoid(margin: torch.Tensor) -> torch.Tensor:
    """Return ``-log sigmoid(margin)``, finite for every finite margin."""
    from torch.nn.functional import softplus

    return softplus(-margin)
