"""The evaluation set: held-out pairs, scored under the policy as it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from dpotrain.data.batches.packing import pack
from dpotrain.data.batches.plan import Costs, MicroBatch, batch_by_length
from dpotrain.data.tokens.tokenized import TokenizedPairs
from dpotrain.engine.memory.out_of_memory import in_parts
from dpotrain.engine.parallel.progress import over_ranks
from dpotrain.engine.parallel.protocol import Parallel
from dpotrain.engine.reference.reference import Reference
from dpotrain.engine.scoring.dropout import dropout_off
from dpotrain.engine.scoring.objective import loss_parts, pair_losses, pair_rewards
from dpotrain.engine.scoring.pairs import need_tokens, needed_statistics, score_pairs
from dpotrain.engine.scoring.router_loss import RouterLoss, summing
from dpotrain.engine.scoring.router_sums import RouterSums
from dpotrain.engine.scoring.scorer import Scorer
from dpotrain.engine.training.coupled import GatheredScores
from dpotrain.engine.training.metrics import ROUTER_LOSS, SUMMED, means, means_of, speed
from dpotrain.engine.training.recipe_metrics import RecipeMetrics
from dpotrain.engine.training.sums import batch_sums, no_sums, split_sums
from dpotrain.plugin.api import Loss


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What scoring the evaluation set gives, the same on every process."""

    metrics: dict[str, float]
    """What a train record has of pairs, over all of them."""
    rewards: npt.NDArray[np.float64]
    """(pairs, 2) the rewards of chosen and rejected, in the order of the evaluation set."""


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """Held-out pairs, with what it takes to score them."""

    data: TokenizedPairs
    reference: Reference
    costs: Costs
    pair_columns: frozenset[str] = frozenset()
    """Columns of the data that change the loss, as in training."""

    def evaluate(
        self,
        parallel: Parallel,
        scorer: Scorer,
        loss: Loss,
        budget: int,
        *,
        advance: Callable[[int], None],
        extra: RecipeMetrics | None = None,
        router_loss: RouterLoss | None = None,
        step: int = 0,
        total_steps: int = 0,
    ) -> Evaluation:
        """Score all pairs. Collective.

        Every data rank computes its share, and pairs that only fill a rank's last micro-batch weigh nothing. A loss
        that couples pairs is formed over all of them, as over those of a step; so is that of the policy's routers.

        ``scorer`` is the policy's, not wrapped; ``budget`` the tokens of a micro-batch; ``advance`` is called with the
        number of pairs that were scored since its last call; ``step`` and ``total_steps`` are what scores say of the
        run.
        """
        started = time.perf_counter()
        everything: npt.NDArray[np.int64] = np.arange(len(self.data), dtype=np.int64)
        mine = batch_by_length(everything, self.costs, parallel.data_size, budget)[parallel.data_rank]
        extra = RecipeMetrics() if extra is None else extra
        tokens, statistics = need_tokens(loss, extra.chosen), needed_statistics(loss, extra.chosen)
        sums = no_sums(extra, parallel.device)
        advance = over_ranks(advance, sum(map(len, mine)), len(self.data))
        scored: list[tuple[torch.Tensor, torch.Tensor]] = []
        gathered = GatheredScores(everything) if loss.couples_pairs else None
        routed: list[RouterSums] = []

        def score(pairs: MicroBatch) -> None:
            batch = pack(self.data, pairs).to(parallel.device)
            reference = self.reference.scores(batch)
            with summing(router_loss) as rows:
                scores = score_pairs(
                    scorer,
                    reference,
                    batch,
                    tokens=tokens,
                    statistics=statistics,
                    step=step,
                    total_steps=total_steps,
                )
            if gathered is None:
                losses, parts = pair_losses(loss, scores, self.pair_columns), loss_parts(loss, scores)
            else:
                gathered.add(batch, scores)
                losses = torch.zeros_like(scores.policy_chosen)
                parts = dict.fromkeys(loss.part_names, losses)
            sums.add_(batch_sums(loss, scores, losses, parts, batch, extra))
            if rows is not None:
                routed.append(rows)
            if len(pairs):  # a filler pair is scored elsewhere
                scored.append((batch.pairs, torch.stack(pair_rewards(loss, scores), 1)))
            advance(len(pairs))

        with torch.no_grad(), dropout_off(scorer):
            for pairs in mine:
                in_parts(pairs, score)
            if gathered is not None:
                whole = gathered.whole(
                    parallel,
                    columns=self.data.columns,
                    statistics=statistics,
                    step=step,
                    total_steps=total_steps,
                )
                # The same on every rank.
                losses = pair_losses(loss, whole, self.pair_columns)
                sums[SUMMED.index("loss")] += losses.double().sum() / parallel.data_size
                for place, part in enumerate(loss_parts(loss, whole).values()):
                    sums[len(SUMMED) + 2 * place] += part.double().sum() / parallel.data_size
        balance = {}
        if routed:
            over_all = RouterSums.over_ranks(routed, parallel)
            balance[ROUTER_LOSS] = float(over_all.loss(over_all.probabilities))
        total, more = split_sums(parallel.sum(sums).cpu(), extra)
        metrics = {
            **means(total.tolist()),
            **speed(total.tolist(), time.perf_counter() - started),
            **balance,
            **means_of(more),
        }
        rewards = torch.zeros(len(self.data), 2, dtype=torch.float64)
        if scored:
            rewards[torch.cat([pairs for pairs, _ in scored])] = (
                torch.cat([of for _, of in scored]).double().cpu()
            )
        return Evaluation(metrics, parallel.sum(rewards.to(parallel.device)).cpu().numpy())
