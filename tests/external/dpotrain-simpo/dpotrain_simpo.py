"""SimPO: preference optimization with a reference-free reward (Meng et al. 2024, arXiv 2405.14734)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpotrain.plugin.components import Loss, Metric
from pydantic import Field

from dpotrain import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from dpotrain.engine.scores import PairScores
    from dpotrain.plugin.components import Measured

dpotrain_interface = 1


def margin_per_token(scores: PairScores) -> torch.Tensor:
    """Return how much likelier a token of the chosen answer is on average, in nats, shape (pairs,)."""
    return scores.policy_chosen / scores.chosen_tokens - scores.policy_rejected / scores.rejected_tokens


class Simpo(Loss):
    """SimPO (eq. 6): ``loss = -log sigmoid(beta * (log pi(y_w|x)/|y_w| - log pi(y_l|x)/|y_l|) - gamma)``.

    It has no ``first_loss``: without a reference, the loss of an untrained policy is whatever the policy makes it.
    """

    name = "my-simpo"
    needs_reference = False

    class Options(Loss.Options):
        """The keys of ``[loss]``."""

        beta: float = Field(2.0, gt=0, description="Scale of the reward, a mean log-prob per token.")
        gamma: float = Field(1.0, ge=0, description="By how much the chosen reward is to be ahead.")

    options: Options

    def __call__(self, scores: PairScores) -> torch.Tensor:
        """Return one number a pair, shape (pairs,)."""
        from torch.nn.functional import softplus

        return softplus(self.options.gamma - self.options.beta * margin_per_token(scores))


class PerToken(Metric):
    """What SimPO compares: margins in nats per token, without beta, and the share of pairs in which they are positive.

    The engine's ``rewards/…`` are of whole answers, as in DPO.
    """

    name = "per-token"
    measures = ("margins", "accuracies")

    def __call__(self, scores: PairScores) -> Mapping[str, Measured]:
        """Return both, one number a pair each; a tie is half right."""
        margins = margin_per_token(scores)
        return {"margins": margins, "accuracies": 0.5 + 0.5 * margins.sign()}


@hookimpl
def dpotrain_losses() -> list[type[Loss]]:
    """Offer the loss."""
    return [Simpo]


@hookimpl
def dpotrain_metrics() -> list[type[Metric]]:
    """Offer the metric."""
    return [PerToken]
