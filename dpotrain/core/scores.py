"""The scores of a micro-batch that losses and metrics receive: one number per completion, and its length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dpotrain.core.declared import ScoreColumns, ScoreStatistics

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class PairScores:
    """Log-probability sums of a micro-batch's pairs. Every tensor has shape (pairs,); sums are float32 nats.

    ``policy_chosen`` is the sum of log pi(y_t | x, y_<t) over the scored tokens of the chosen completion
    under the policy, and so on; only the two policy tensors carry gradients.
    """

    policy_chosen: torch.Tensor
    policy_rejected: torch.Tensor
    reference_chosen: torch.Tensor
    reference_rejected: torch.Tensor
    chosen_tokens: torch.Tensor
    """Number of scored tokens of the chosen completion, int64."""
    rejected_tokens: torch.Tensor
    policy_tokens: torch.Tensor | None = None
    """(S,) float32 log-probs of the S scored tokens under the policy, with gradients, completion by completion: chosen
    of the first pair, its rejected, chosen of the second, …, as many as ``chosen_tokens`` and ``rejected_tokens`` say.
    None unless a component of the recipe says ``needs_token_log_probs``."""
    statistics: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """(pairs, 2) float32 each, without gradients: means over the scored tokens of chosen and rejected of what
    components of the recipe ask for in ``needs_statistics``. ``entropy`` of the policy's distribution;
    ``log_largest``, the log-prob of its likeliest token; ``log_squares``, the log of the sum of its squared
    probabilities; all in nats."""
    columns: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Numbers of the pairs' rows, each (pairs,) float32, by name: what components of the recipe ask for in
    ``columns``."""
    step: int = 0
    """The step that is computed, 1 for the first; in an evaluation the last step taken, 0 before the first."""
    total_steps: int = 0
    """Steps of the whole run. With ``step`` it says how far the run is, alike on every process and after a resume."""

    def __post_init__(self) -> None:
        """Have a name that was not asked for explained."""
        object.__setattr__(self, "statistics", ScoreStatistics(self.statistics))
        object.__setattr__(self, "columns", ScoreColumns(self.columns))

    @property
    def chosen_logratio(self) -> torch.Tensor:
        """Log pi(chosen) - log ref(chosen)."""
        return self.policy_chosen - self.reference_chosen

    @property
    def rejected_logratio(self) -> torch.Tensor:
        """Log pi(rejected) - log ref(rejected)."""
        return self.policy_rejected - self.reference_rejected
