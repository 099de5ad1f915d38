"""What a micro-batch adds to the sums of a step or an evaluation: the engine's numbers, then the recipe's metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dpotrain.engine.training.metrics import SUMMED, pair_sums
from dpotrain.engine.training.recipe_metrics import RecipeMetrics

if TYPE_CHECKING:
    from dpotrain.core.scores import PairScores
    from dpotrain.data.batches.packing import PackedPairs
    from dpotrain.plugin.api import Loss


def no_sums(extra: RecipeMetrics, device: torch.device) -> torch.Tensor:
    """Return the sums of no pair, (len(SUMMED) + 2 * names,) float64."""
    return torch.zeros(len(SUMMED) + 2 * len(extra.names), dtype=torch.float64, device=device)


def batch_sums(
    loss: Loss, scores: PairScores, losses: torch.Tensor, batch: PackedPairs, extra: RecipeMetrics
) -> torch.Tensor:
    """Return the sums of a micro-batch on its device, without waiting for it; its shape is that of :func:`no_sums`."""
    own = pair_sums(scores, losses, batch.weights, loss.options.beta, batch.tokens)
    return torch.cat([own, extra.sums(scores, batch.weights)])


def split_sums(
    sums: torch.Tensor, extra: RecipeMetrics
) -> tuple[torch.Tensor, dict[str, tuple[float, float]]]:
    """Part the engine's sums from those of the recipe's metrics."""
    return sums[: len(SUMMED)], extra.by_name(sums[len(SUMMED) :])
