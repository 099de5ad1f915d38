"""The ``tokens`` metrics: how likely answers are to the policy and how far it is from the reference, by token."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from dpotrain import hookimpl
from dpotrain.plugin.api import Measured, Metric, PairScores

dpotrain_interface = 2


class Tokens(Metric):
    """Log-probs and log-ratios of a scored token, in nats: means over the tokens, in which long answers count more.

    ``logps_chosen`` and ``logps_rejected`` are the policy's: losses of the difference alone may let both fall.
    ``logratios_chosen`` and ``logratios_rejected`` are the policy's less the reference's. Of answers that the policy
    itself would write their mean is the KL divergence from the reference; of the data's it says how far the policy has
    moved on them. With a loss that needs no reference they are the log-probs. ``entropy_chosen`` and
    ``entropy_rejected``, where asked for, are means of the answers' means.
    """

    name = "tokens"

    class Options(Metric.Options):
        entropy: bool = Field(
            False,
            description="Add the entropy of the policy's distributions over the vocabulary; a pass over the logits.",
        )

    options: Options

    def __init__(self, options: Metric.Options) -> None:
        super().__init__(options)
        self.needs_statistics = ("entropy",) if self.options.entropy else ()

    @property
    def measures(self) -> tuple[str, ...]:
        own = ("logps_chosen", "logps_rejected", "logratios_chosen", "logratios_rejected")
        return (*own, "entropy_chosen", "entropy_rejected") if self.options.entropy else own

    def __call__(self, scores: PairScores) -> Mapping[str, Measured]:
        chosen, rejected = scores.chosen_tokens, scores.rejected_tokens
        found: dict[str, Measured] = {
            "logps_chosen": (scores.policy_chosen / chosen, chosen),
            "logps_rejected": (scores.policy_rejected / rejected, rejected),
            "logratios_chosen": (scores.chosen_logratio / chosen, chosen),
            "logratios_rejected": (scores.rejected_logratio / rejected, rejected),
        }
        if self.options.entropy:
            entropy = scores.statistics["entropy"]
            found |= {"entropy_chosen": entropy[:, 0], "entropy_rejected": entropy[:, 1]}
        return found


@hookimpl
def dpotrain_metrics() -> list[type[Metric]]:
    return [Tokens]
