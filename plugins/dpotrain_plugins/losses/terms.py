"""What the losses of several families are written in: rewards, mean log-probs, and losses without a beta."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from dpotrain.plugin.api import Loss, PairScores

if TYPE_CHECKING:
    import torch


class LossWithoutBeta(Loss):
    """A loss whose equation has no beta, so that ``loss.beta`` is refused as a key that would change nothing."""

    class Options(Loss.Options):
        """The keys of every loss but ``beta``."""

        beta: None = Field(None, description="This loss has none.")  # type: ignore[assignment]

        @field_validator("beta", mode="before")
        @classmethod
        def _none(cls, value: object) -> None:
            if value is not None:
                raise ValueError("this loss has no beta of its own; leave it out")

    options: Options


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
