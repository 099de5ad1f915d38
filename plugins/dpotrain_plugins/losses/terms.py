"""What the losses of several families are written in: rewards, mean log-probs, and losses without a beta."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from dpotrain.core.divergences import Divergence
from dpotrain.plugin.api import Component, Loss, PairScores

if TYPE_CHECKING:
    import torch


class LossWithoutBeta(Loss):
    """A loss whose equation has no beta, so that ``loss.beta`` is refused as a key that would change nothing."""

    class Options(Component.Options):
        """The keys of the loss's table, without those of a loss of DPO's rewards."""

        divergence: ClassVar[Divergence] = "reverse-kl"
        divergence_alpha: ClassVar[float | None] = None

    options: Options  # type: ignore[assignment]  # Loss.Options has a beta, which is what is left out here


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
