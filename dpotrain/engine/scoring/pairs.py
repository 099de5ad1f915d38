"""From a micro-batch to the scores that losses and metrics get."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

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
