"""From a micro-batch to the scores that losses and metrics get."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from dpotrain.core.scores import PairScores
from dpotrain.data.batches.packing import PackedPairs
from dpotrain.engine.scoring.logprobs import completion_sums
from dpotrain.engine.scoring.statistics import STATISTICS
from dpotrain.plugin.api import Loss, Metric
from dpotrain.plugin.api.loss import ALIGNED_BY
from dpotrain.plugin.api.nested import nested


def score_pairs(
    scorer: nn.Module,
    reference: torch.Tensor,
    batch: PackedPairs,
    *,
    tokens: bool = False,
    statistics: Sequence[str] = (),
    step: int = 0,
    total_steps: int = 0,
) -> PairScores:
    """Score a micro-batch of P pairs under the policy, with the log-prob of every scored token where ``tokens`` is set.

    ``statistics`` are names of :data:`.statistics.STATISTICS`, whose means over each completion the scores have, too.
    ``reference`` has the (P, 2) float32 sums of chosen and rejected under the reference; ``step`` and ``total_steps``
    are what the scores say of the run.
    """
    if tokens or statistics:
        sums, each = scorer(batch, tokens=tokens, statistics=statistics)
    else:
        sums, each = scorer(batch), None
    found = {}
    if each is not None and statistics:
        for place, name in enumerate(statistics, start=1):
            found[name] = completion_sums(each[:, place].detach(), batch.scored_tokens) / batch.scored_tokens
        each = each[:, 0]
    return PairScores(
        policy_chosen=sums[:, 0],
        policy_rejected=sums[:, 1],
        reference_chosen=reference[:, 0],
        reference_rejected=reference[:, 1],
        chosen_tokens=batch.scored_tokens[:, 0],
        rejected_tokens=batch.scored_tokens[:, 1],
        policy_tokens=each if tokens else None,
        statistics=found,
        columns=batch.columns,
        step=step,
        total_steps=total_steps,
    )


def needed_statistics(loss: Loss, metrics: Iterable[Metric]) -> tuple[str, ...]:
    """Return the statistics that these components, or those in their options, need, in a fixed order."""
    parts = [part for each in (loss, *metrics) for _, part in nested(each)]
    needed = {name for part in parts if isinstance(part, Loss | Metric) for name in part.needs_statistics}
    weightings = (part.options.weighting for part in parts if isinstance(part, Loss))
    needed |= {ALIGNED_BY[each] for each in weightings if each is not None}
    return tuple(name for name in STATISTICS if name in needed)


def need_tokens(loss: Loss, metrics: Iterable[Metric]) -> bool:
    """Whether one of these components, or one in their options, needs the log-prob of every scored token."""
    parts = (part for each in (loss, *metrics) for _, part in nested(each))
    return any(part.needs_token_log_probs for part in parts if isinstance(part, Loss | Metric))
