"""Full fine-tuning: what the engine does where a recipe has no ``[adapter]``."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dpotrain.core.errors import RunError
from dpotrain.plugin.api import Adapter, save_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class AllWeights(Adapter):
    """Trains every weight of the policy itself."""

    name = "all-weights"

    def attach(self, policy: PreTrainedModel) -> PreTrainedModel:  # noqa: D102
        policy.requires_grad_(True)
        return policy

    def reference(self, policy: PreTrainedModel) -> AbstractContextManager[None]:
        """Raise: the initial weights are gone after the first update."""
        raise RunError("full training keeps no initial weights beside the trained ones")

    def state(self, policy: PreTrainedModel) -> dict[str, torch.Tensor]:  # noqa: D102
        return {name: weight.data for name, weight in policy.named_parameters()}

    def load_state(self, policy: PreTrainedModel, state: Mapping[str, torch.Tensor]) -> None:  # noqa: D102
        present = dict(policy.named_parameters())
        if present.keys() != state.keys():
            odd = sorted(present.keys() ^ state.keys())
            raise RunError(f"the checkpoint is of another model: {', '.join(odd[:3])} …")
        with torch.no_grad():
            for name, weight in present.items():
                weight.copy_(state[name])

    def save(self, policy: PreTrainedModel, folder: Path) -> None:  # noqa: D102
        save_model(policy, folder)

    def rehearse_saving(self, policy: PreTrainedModel, folder: Path) -> None:  # noqa: D102
        save_model(policy, folder, weights={})

    def how_to_load(self, folder: Path) -> str:  # noqa: D102
        return f'model = AutoModelForCausalLM.from_pretrained("{folder}")'
