"""What the built-in optimizers share: decoupled weight decay, which spares vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from dpotrain.plugin.api import Optimizer

if TYPE_CHECKING:
    import torch

#: How much of a running mean stays in each step.
Decay = Annotated[float, Field(ge=0, lt=1)]


class DecayingOptimizer(Optimizer):
    """An optimizer with decoupled weight decay (Loshchilov & Hutter 2019, arXiv 1711.05101)."""

    class Options(Optimizer.Options):
        weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay; not on biases and norms.")

    options: Options

    def _groups(self, weights: Mapping[str, torch.nn.Parameter]) -> list[dict[str, Any]]:
        """Spare vectors (biases, norms) weight decay, as usual: shrinking them regularizes nothing."""
        matrices = [weight for weight in weights.values() if weight.ndim >= 2]
        vectors = [weight for weight in weights.values() if weight.ndim < 2]
        groups = (matrices, self.options.weight_decay), (vectors, 0.0)
        return [{"params": params, "weight_decay": decay} for params, decay in groups if params]


def adamw_lr(adapter: bool) -> tuple[float, float]:
    """Return the learning rates usual for DPO with AdamW, and with whatever has updates of the same size."""
    return (1e-6, 1e-3) if adapter else (1e-8, 1e-4)
