"""From a micro-batch to the scores that losses and metrics get, and to the losses of its pairs."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from dpotrain.core.errors import PluginError
from dpotrain.core.scores import PairScores
from dpotrain.data.batches.packing import PackedPairs
from dpotrain.plugin.api import Loss, Metric
from dpotrain.plugin.api.nested import nested


def score_pairs(
    scorer: nn.Module,
    reference: torch.Tensor,
    batch: PackedPairs,
    *,
    tokens: bool = False,
    step: int = 0,
    total_steps: int = 0,
) -> PairScores:
    """Score a micro-batch of P pairs under the policy, with the log-prob of every scored token where ``tokens`` is set.

    ``reference`` has the (P, 2) float32 sums of chosen and rejected under the reference; ``step`` and ``total_steps``
    are what the scores say of the run.
    """
    sums, each = scorer(batch, tokens=True) if tokens else (scorer(batch), None)
    return PairScores(
        policy_chosen=sums[:, 0],
        policy_rejected=sums[:, 1],
        reference_chosen=reference[:, 0],
        reference_rejected=reference[:, 1],
        chosen_tokens=batch.scored_tokens[:, 0],
        rejected_tokens=batch.scored_tokens[:, 1],
        policy_tokens=each,
        columns=batch.columns,
        step=step,
        total_steps=total_steps,
    )


def need_tokens(loss: Loss, metrics: Iterable[Metric]) -> bool:
    """Whether one of these components, or one in their options, needs the log-prob of every scored token."""
    parts = (part for each in (loss, *metrics) for _, part in nested(each))
    return any(part.needs_token_log_probs for part in parts if isinstance(part, Loss | Metric))


def pair_losses(loss: Loss, scores: PairScores) -> torch.Tensor:
    """Return a loss a pair, (pairs,), or raise a PluginError for a loss that gives anything else."""
    losses = loss(scores)
    expected = scores.policy_chosen.shape
    if not isinstance(losses, torch.Tensor) or losses.shape != expected:
        raise PluginError(
            f'loss "{loss.name}" returned {_got(losses)} for {expected[0]} pairs; it must return one number a pair, '
            f"a tensor of shape {tuple(expected)}, and leave dividing by the pairs to the engine"
        )
    return losses


def pair_rewards(loss: Loss, scores: PairScores) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rewards of chosen and rejected, (pairs,) each, or raise a PluginError where a loss gives no such two.

    Without gradients.
    """
    with torch.no_grad():
        rewards = loss.rewards(scores)
    expected = scores.policy_chosen.shape
    two = isinstance(rewards, tuple) and len(rewards) == 2
    if not two or any(not isinstance(each, torch.Tensor) or each.shape != expected for each in rewards):
        got = f"({', '.join(map(str, map(_got, rewards)))})" if two else _got(rewards)
        raise PluginError(
            f'loss "{loss.name}" returned {got} from rewards for {expected[0]} pairs; it must return two tensors of '
            f"shape {tuple(expected)}, of chosen and rejected"
        )
    return rewards


def _got(value: object) -> object:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
