"""What a micro-batch adds to the sums of a step or an evaluation: the engine's numbers, then the recipe's metrics."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from dpotrain.core.scores import PairScores
from dpotrain.data.batches.packing import PackedPairs
from dpotrain.engine.scoring.objective import pair_rewards
from dpotrain.engine.training.metrics import ROUTER_LOSS, SUMMED
from dpotrain.engine.training.recipe_metrics import RecipeMetrics
from dpotrain.plugin.api import Loss


def no_sums(extra: RecipeMetrics, device: torch.device) -> torch.Tensor:
    """Return the sums of no pair, (len(SUMMED) + 2 * names,) float64."""
    return torch.zeros(len(SUMMED) + 2 * len(extra.names), dtype=torch.float64, device=device)


def batch_sums(
    loss: Loss,
    scores: PairScores,
    losses: torch.Tensor,
    parts: Mapping[str, torch.Tensor],
    batch: PackedPairs,
    extra: RecipeMetrics,
) -> torch.Tensor:
    """Return the sums of a micro-batch on its device, without waiting for it; its shape is that of :func:`no_sums`.

    ``losses`` and each of the loss's ``parts`` are (pairs,).
    """
    own = pair_sums(scores, losses, batch.weights, pair_rewards(loss, scores), batch.tokens)
    return torch.cat([own, extra.sums(scores, batch.weights, parts)])


def pair_sums(
    scores: PairScores,
    losses: torch.Tensor,
    weights: torch.Tensor,
    rewards: tuple[torch.Tensor, torch.Tensor],
    tokens: int,
) -> torch.Tensor:
    """Return the sums of a micro-batch, (len(SUMMED),) float64, without waiting for the device.

    ``rewards`` are those of chosen and rejected, each (pairs,). A tie, as before the first update, counts half for
    accuracy: it is neither right nor wrong.
    """
    with torch.no_grad():
        chosen, rejected = rewards
        accurate = (chosen > rejected).float() + 0.5 * (chosen == rejected).float()
        columns = (
            torch.ones_like(losses),
            losses,
            chosen,
            rejected,
            accurate,
            chosen - rejected,
            scores.policy_chosen,
            scores.policy_rejected,
        )
        summed = (torch.stack(columns).double() * weights).sum(1)
        return torch.cat([summed, summed.new_full((1,), tokens)])


def split_sums(
    sums: torch.Tensor, extra: RecipeMetrics
) -> tuple[torch.Tensor, dict[str, tuple[float, float]]]:
    """Part the engine's sums from those of the recipe's metrics, and of the router loss where its two follow."""
    own, metrics, routed = sums.tensor_split([len(SUMMED), len(SUMMED) + 2 * len(extra.names)])
    balance = {ROUTER_LOSS: (float(routed[0]), float(routed[1]))} if len(routed) else {}
    return own, balance | extra.by_name(metrics)
