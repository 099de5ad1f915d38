"""The numbers that records of a run have by themselves, besides those of the recipe's metrics and of plugins."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OwnMetric:
    """One number of a record."""

    meaning: str
    in_train: bool = True
    """Whether train records have it."""
    in_eval: bool = True
    """Whether eval records have it."""
    in_every_run: bool = True
    """Whether it is there whatever the model and the recipe."""


#: By name, in the order of the metrics file.
OWN_METRICS: dict[str, OwnMetric] = {
    "loss": OwnMetric("Mean loss of the pairs."),
    "grad_norm": OwnMetric(
        "Norm of the gradient of all that is trained, before it is clipped; mean over the record's steps.",
        in_eval=False,
    ),
    "learning_rate": OwnMetric(
        "Peak learning rate times the schedule's factor, in the last step.", in_eval=False
    ),
    "epoch": OwnMetric("Passes over the training pairs so far, 1.0 at the end of the first."),
    "pairs": OwnMetric("Pairs that were evaluated.", in_train=False),
    "rewards/chosen": OwnMetric("Mean reward of the chosen completions, as the loss defines rewards."),
    "rewards/rejected": OwnMetric("The same of the rejected completions."),
    "rewards/accuracies": OwnMetric(
        "Share of the pairs whose chosen reward is the greater one; a tie counts half."
    ),
    "rewards/margins": OwnMetric("Mean of the chosen reward minus the rejected one."),
    "logps/chosen": OwnMetric("Mean log-prob sum of the chosen completions under the policy, in nats."),
    "logps/rejected": OwnMetric("The same of the rejected completions."),
    "router_loss": OwnMetric(
        "Load-balancing loss of a mixture of experts, before its weight; only where `training.router_loss_weight` is "
        "not 0.",
        in_every_run=False,
    ),
    "pairs_per_second": OwnMetric("Pairs per second, over all processes."),
    "tokens_per_second": OwnMetric(
        "Tokens that the policy read per second, without padding and each prompt once, over all processes."
    ),
    "peak_memory_mb": OwnMetric(
        "Most memory held so far by the main process, in MB of 2^20 bytes: allocated on the CUDA device, or resident."
    ),
}
