"""The evaluation set: held-out pairs, scored under the policy as it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from dpotrain.data.batches.packing import PackedPairs, pack
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
from dpotrain.engine.training.agreement import RanOut, agreeing
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
    labels: tuple[str, ...] = ()
    """What the sources of a mixture are called, whose metrics stand beside those of all pairs; empty for one source."""

    @property
    def labels_of_pairs(self) -> list[str]:
        """Those of sources of which a pair is held out."""
        return [label for number, label in enumerate(self.labels) if (self.data.sources == number).any()]

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
        number of pairs that were scored since its last call, and may raise
        :class:`~dpotrain.engine.training.unfinished.Interrupted`, which every rank then does; ``step`` and
        ``total_steps`` are what scores say of the run.
        """
        started = time.perf_counter()
        everything: npt.NDArray[np.int64] = np.arange(len(self.data), dtype=np.int64)
        mine = batch_by_length(everything, self.costs, parallel.data_size, budget)[parallel.data_rank]
        extra = RecipeMetrics() if extra is None else extra
        tokens, statistics = need_tokens(loss, extra.chosen), needed_statistics(loss, extra.chosen)
        # A row for each source.
        sums = torch.stack([no_sums(extra, parallel.device)] * max(1, len(self.labels)))
        advance = over_ranks(advance, sum(map(len, mine)), len(self.data))
        scored: list[tuple[torch.Tensor, torch.Tensor]] = []
        gathered = GatheredScores(everything) if loss.couples_pairs else None
        routed: list[RouterSums] = []

        def score(pairs: MicroBatch) -> None:
            batch = pack(self.data, pairs).to(parallel.device)
            reference = self.reference.scores(batch)
            with summing(router_loss, parallel.device) as rows:
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
            for source, part in self._by_source(batch):
                sums[source].add_(batch_sums(loss, scores, losses, parts, part, extra))
            if rows is not None:
                routed.append(rows)
            if len(pairs):  # a filler pair is scored elsewhere
                scored.append((batch.pairs, torch.stack(pair_rewards(loss, scores), 1)))
            advance(len(pairs))

        with torch.no_grad(), dropout_off(scorer):
            try:
                with agreeing(parallel):
                    for pairs in mine:
                        in_parts(pairs, score, parallel)
            except RanOut as error:
                raise error.error() from None
            if gathered is not None:
                whole = gathered.whole(
                    parallel,
                    columns=self.data.columns,
                    statistics=statistics,
                    step=step,
                    total_steps=total_steps,
                )
                # The same on every rank.
                losses = {SUMMED.index("loss"): pair_losses(loss, whole, self.pair_columns)}
                for place, of in enumerate(loss_parts(loss, whole).values()):
                    losses[len(SUMMED) + 2 * place] = of
                sources = torch.from_numpy(self.data.sources.astype(np.int64)).to(parallel.device)
                for place, of in losses.items():
                    sums[:, place].index_add_(
                        0, sources if self.labels else sources * 0, of.double() / parallel.data_size
                    )
        balance = {}
        if routed:
            over_all = RouterSums.over_ranks(routed, parallel)
            balance[ROUTER_LOSS] = float(over_all.loss(over_all.probabilities))
        sums = parallel.sum(sums).cpu()
        total, more = split_sums(sums.sum(0), extra)
        metrics = {
            **means(total.tolist()),
            **speed(total.tolist(), time.perf_counter() - started),
            **balance,
            **means_of(more),
        }
        for label, row in zip(self.labels, sums, strict=False):
            if row[0]:  # a source may have no pair that is held out
                own, more = split_sums(row, extra)
                found = means(own.tolist()) | means_of(more)
                metrics |= {f"{label}/{name}": value for name, value in found.items()}
        rewards = torch.zeros(len(self.data), 2, dtype=torch.float64)
        if scored:
            rewards[torch.cat([pairs for pairs, _ in scored])] = (
                torch.cat([of for _, of in scored]).double().cpu()
            )
        return Evaluation(metrics, parallel.sum(rewards.to(parallel.device)).cpu().numpy())

    def _by_source(self, batch: PackedPairs) -> Iterator[tuple[int, PackedPairs]]:
        """Yield the sources of a micro-batch's pairs, each with the batch in which others weigh nothing."""
        sources = self.data.sources[batch.pairs.numpy()]
        different = np.unique(sources).tolist() if self.labels else [0]
        if len(different) == 1:
            yield different[0], batch
            return
        lengths = np.array([each.total for each in batch.lengths])
        for source in different:
            mine = torch.from_numpy(sources == source).to(batch.weights.device)
            tokens = int(lengths[sources == source].sum()) if batch.tokens else 0
            yield source, replace(batch, weights=batch.weights * mine, tokens=tokens)
