"""Losses that couple the pairs of a step: formed once over all of them, exact however the step is cut.

The step scores its pairs without gradients, on all ranks; the loss of the whole step then gives the gradient with
respect to every score; and the micro-batches, scored once more, carry it on to the weights. That is the technique of
cached gradients (Gao et al. 2021, arXiv:2101.06983). It costs one forward pass more and hardly any memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from dpotrain.core.scores import PairScores
from dpotrain.data.batches.packing import PackedPairs
from dpotrain.data.batches.plan import Indices
from dpotrain.engine.parallel.protocol import Parallel
from dpotrain.engine.scoring.loss_check import check_gradients
from dpotrain.engine.scoring.objective import loss_parts, pair_losses, places_of_runs
from dpotrain.plugin.api import Loss


class GatheredScores:
    """The scores of some pairs, in a given order, collected from the micro-batches of all ranks."""

    def __init__(self, pairs: Indices) -> None:
        """Collect those of ``pairs`` (N,), each there once."""
        self._order = np.argsort(pairs)
        self._sorted = pairs[self._order]
        self._found: list[tuple[torch.Tensor, PairScores]] = []

    def places(self, batch: PackedPairs) -> torch.Tensor:
        """Return where the pairs of a micro-batch stand in the order, (P,) int64 on its device."""
        places = self._order[np.searchsorted(self._sorted, batch.pairs.numpy())]
        return torch.from_numpy(places).to(batch.input_ids.device)

    def add(self, batch: PackedPairs, scores: PairScores) -> None:
        """Take the scores of a micro-batch; a filler pair is scored elsewhere."""
        if batch.tokens:
            self._found.append((self.places(batch), scores))

    def whole(
        self,
        parallel: Parallel,
        *,
        columns: Iterable[str] = (),
        statistics: Iterable[str] = (),
        step: int,
        total_steps: int,
    ) -> PairScores:
        """Return the scores of all pairs, the same on every rank, and forget them. Collective.

        ``columns`` are those of the data, ``statistics`` those that the scores have. The policy's scores are leaves
        without gradients so far.
        """
        names, statistics = tuple(columns), tuple(statistics)
        rows = torch.zeros(6 + len(names) + 2 * len(statistics), len(self._sorted), device=parallel.device)
        for places, scores in self._found:
            rows[:, places] = torch.stack(
                [
                    scores.policy_chosen,
                    scores.policy_rejected,
                    scores.reference_chosen,
                    scores.reference_rejected,
                    scores.chosen_tokens.float(),  # exact up to 16 million tokens
                    scores.rejected_tokens.float(),
                    *(scores.columns[name] for name in names),
                    *(each for name in statistics for each in scores.statistics[name].unbind(1)),
                ]
            )
        rows = parallel.sum(rows)
        counts = rows[4:6].long()
        tokens = self._tokens(parallel, counts) if self._has_tokens(parallel) else None
        self._found.clear()
        return PairScores(
            policy_chosen=rows[0],
            policy_rejected=rows[1],
            reference_chosen=rows[2],
            reference_rejected=rows[3],
            chosen_tokens=counts[0],
            rejected_tokens=counts[1],
            policy_tokens=tokens,
            columns=dict(zip(names, rows[6 : 6 + len(names)], strict=True)),
            statistics={
                name: rows[start : start + 2].T
                for name, start in zip(statistics, range(6 + len(names), len(rows), 2), strict=True)
            },
            step=step,
            total_steps=total_steps,
        )

    def _has_tokens(self, parallel: Parallel) -> bool:
        # A rank may have filler pairs alone, and knows nothing of what the others scored.
        return parallel.any(any(scores.policy_tokens is not None for _, scores in self._found))[0]

    def _tokens(self, parallel: Parallel, counts: torch.Tensor) -> torch.Tensor:
        """Return the log-probs of all scored tokens, completion by completion in the order; ``counts`` is (2, N)."""
        lengths = counts.T.flatten()
        starts = lengths.cumsum(0) - lengths
        tokens = torch.zeros(int(lengths.sum()), device=parallel.device)
        for places, scores in self._found:
            assert scores.policy_tokens is not None
            tokens[token_places(places, starts, scores)] = scores.policy_tokens.detach()
        return parallel.sum(tokens)


def token_places(places: torch.Tensor, starts: torch.Tensor, scores: PairScores) -> torch.Tensor:
    """Return where the scored tokens of a micro-batch stand among all, (S,) int64.

    ``places`` (P,) are those of its pairs, ``starts`` (2 * N,) where each completion of all pairs begins.
    """
    own = torch.stack([scores.chosen_tokens, scores.rejected_tokens], 1).flatten()
    begin = starts.view(-1, 2)[places].flatten()
    assert scores.policy_tokens is not None
    return places_of_runs(begin, own, len(scores.policy_tokens))


@dataclass(frozen=True, slots=True)
class CoupledStep:
    """The losses of a step's pairs, and the gradients of their sum with respect to the policy's scores."""

    gathered: GatheredScores
    scores: PairScores
    """Of all N pairs of the step, in its order."""
    losses: torch.Tensor
    """(N,) float32, without gradients."""
    parts: Mapping[str, torch.Tensor]
    """(N,) float32 each: the loss's parts."""
    by_sums: torch.Tensor
    """(2, N) float32: with respect to the log-prob sums of chosen and rejected."""
    by_tokens: torch.Tensor | None
    """(S,) float32: with respect to the log-probs of the scored tokens."""

    @classmethod
    def of(
        cls, loss: Loss, gathered: GatheredScores, scores: PairScores, columns: Collection[str] = ()
    ) -> CoupledStep:
        """Form the loss over the scores of a whole step; ``columns`` are what :func:`pair_losses` applies.

        Raises:
            PluginError: the loss does not return a number a pair, or no gradient leads from it to the scores.
        """
        leaves = [each.requires_grad_() for each in _policy(scores)]
        losses = pair_losses(loss, scores, columns)
        check_gradients(loss, losses)
        parts = loss_parts(loss, scores)  # with gradients, as in training a part may be another without
        found = torch.autograd.grad(losses.sum(), leaves, allow_unused=True, materialize_grads=True)
        for leaf in leaves:
            leaf.requires_grad_(False)
        by_tokens = found[2] if len(found) > 2 else None
        return cls(gathered, scores, losses.detach(), parts, torch.stack(found[:2]), by_tokens)

    def reference(self, batch: PackedPairs) -> torch.Tensor:
        """Return (P, 2) the reference's sums of a micro-batch, which were computed with the policy's."""
        both = torch.stack([self.scores.reference_chosen, self.scores.reference_rejected], 1)
        return both[self.gathered.places(batch)] if batch.tokens else both[:1]

    def of_batch(self, batch: PackedPairs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the losses of a micro-batch's pairs and their parts, (P,) each."""
        if not batch.tokens:  # a filler pair has neither
            nothing = torch.zeros_like(self.losses[:1])
            return nothing, dict.fromkeys(self.parts, nothing)
        places = self.gathered.places(batch)
        return self.losses[places], {name: part[places] for name, part in self.parts.items()}

    def carried(self, batch: PackedPairs, scores: PairScores) -> torch.Tensor:
        """Return a scalar whose gradient with respect to a micro-batch's scores is that of the step's losses' sum.

        ``scores`` are those of the pass with gradients.
        """
        if not batch.tokens:
            nothing: torch.Tensor = (scores.policy_chosen * 0).sum()
            return nothing
        places = self.gathered.places(batch)
        by_chosen, by_rejected = self.by_sums[:, places]
        total: torch.Tensor = (scores.policy_chosen * by_chosen + scores.policy_rejected * by_rejected).sum()
        if self.by_tokens is not None and scores.policy_tokens is not None:
            lengths = torch.stack([self.scores.chosen_tokens, self.scores.rejected_tokens], 1).flatten()
            by_token = self.by_tokens[token_places(places, lengths.cumsum(0) - lengths, scores)]
            total = total + (scores.policy_tokens * by_token).sum()
        return total


def _policy(scores: PairScores) -> list[torch.Tensor]:
    tokens = [] if scores.policy_tokens is None else [scores.policy_tokens]
    return [scores.policy_chosen, scores.policy_rejected, *tokens]
