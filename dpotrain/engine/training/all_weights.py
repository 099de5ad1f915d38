"""Full fine-tuning: what the engine does where a recipe has no ``[adapter]``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpotrain.plugin.api import InPlaceAdapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class AllWeights(InPlaceAdapter):
    """Trains every weight of the policy itself, in the dtype in which it was loaded."""

    name = "all-weights"

    def attach(self, policy: PreTrainedModel) -> PreTrainedModel:  # noqa: D102
        policy.requires_grad_(True)
        return policy
