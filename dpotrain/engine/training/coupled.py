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
from dpotrain.data.batches.mixture import Indices
from dpotrain.data.batches.packing import PackedPairs
from dpotrain.data.batches.segments import copy_to
from dpotrain.engine.parallel.protocol import Parallel
from dpotrain.engine.scoring.loss_check import check_gradients
from dpotrain.engine.scoring.objective import loss_parts, pair_losses, places_of_runs
from dpotrain.plugin.api import Loss

#: What a step keeps of each pair beside the loss's parts, which have no empty names or spaces.
_SUMS, _REFERENCE, _LOSSES = "by sums", "of the reference", "the losses"


class GatheredScores:
    """The scores of some pairs, in a given order, collected from the micro-batches of all ranks.

    A pair of a source that repeats may be there more than once: it is scored each time, and counts each time, but its
    scores are kept once.
    """

    def __init__(self, pairs: Indices) -> None:
        """Collect those of ``pairs`` (N,), of which U differ."""
        self._different, again, times = np.unique(pairs, return_inverse=True, return_counts=True)
        self.again = torch.from_numpy(again)
        """(N,) int64: which of the different pairs each is; once they are gathered, on the device."""
        self._times = torch.from_numpy(times)
        # (U, 3), of the pairs that are here their scored tokens, and 1: on the host, so that adding them up waits for
        # no device.
        self._counted = torch.zeros(len(times), 3, dtype=torch.int64)
        self._total = 0
        """Scored tokens of the different pairs, T."""
        self.lengths = torch.zeros(0, 2, dtype=torch.int64)
        """(U, 2) int64: scored tokens of chosen and rejected; where there are log-probs of tokens."""
        self.tokens_again: torch.Tensor | None = None
        """(S,) int64: which token of the different pairs each of those of all N pairs is."""
        self._found: list[tuple[torch.Tensor, PairScores]] = []

    def places(self, batch: PackedPairs) -> torch.Tensor:
        """Return which of the different pairs those of a micro-batch are, (P,) int64 on its device."""
        return copy_to(self._places(batch), batch.input_ids.device)

    def _places(self, batch: PackedPairs) -> torch.Tensor:
        return torch.from_numpy(np.searchsorted(self._different, batch.pairs.numpy()))

    def mean_of_each(self, values: torch.Tensor) -> torch.Tensor:
        """Return the means over the times that each different pair is there, (…, U) of (…, N)."""
        total = values.new_zeros(*values.shape[:-1], len(self._different)).index_add_(-1, self.again, values)
        return total / self._times

    def mean_of_each_token(self, values: torch.Tensor) -> torch.Tensor:
        """Return the same of the scored tokens, (T,) of the different pairs of (S,) of all."""
        assert self.tokens_again is not None
        total = values.new_zeros(self._total).index_add_(0, self.tokens_again, values)
        return total / self._times.repeat_interleave(self.lengths.sum(1), output_size=self._total)

    def add(self, batch: PackedPairs, scores: PairScores) -> None:
        """Take the scores of a micro-batch; a filler pair is scored elsewhere."""
        if batch.tokens:
            self._found.append((self.places(batch), scores))
            counts = (batch.on_host or batch).scored_tokens
            self._counted[self._places(batch)] = torch.cat([counts, torch.ones_like(counts[:, :1])], 1)

    def whole(
        self,
        parallel: Parallel,
        *,
        columns: Iterable[str] = (),
        statistics: Iterable[str] = (),
        step: int,
        total_steps: int,
    ) -> PairScores:
        """Return the scores of all N pairs, the same on every rank, and forget them. Collective.

        Nothing waits for the device but the exchange between ranks.

        ``columns`` are those of the data, ``statistics`` those that the scores have. The policy's scores are leaves
        without gradients so far.
        """
        names, statistics = tuple(columns), tuple(statistics)
        rows = torch.zeros(7 + len(names) + 2 * len(statistics), len(self._different), device=parallel.device)
        for places, scores in self._found:
            rows[:, places] = torch.stack(
                [
                    torch.ones_like(scores.policy_chosen),
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
        summed = parallel.sum(rows)
        # A pair that is there more than once may be on several ranks.
        rows = summed[1:] / summed[0]
        again, self.again = self.again, copy_to(self.again, rows.device)
        self._times = copy_to(self._times, rows.device)
        tokens = None
        if self._has_tokens(parallel):
            counted = parallel.sum(self._counted)
            lengths = counted[:, :2] // counted[:, 2:]
            self._total, of_all = int(lengths.sum()), int(lengths[again].sum())
            self.lengths = copy_to(lengths, rows.device)
            own, starts = self.lengths[self.again].flatten(), self.starts[self.again].flatten()
            self.tokens_again = places_of_runs(starts, own, of_all)
            tokens = self._tokens(parallel, summed[0])[self.tokens_again]
        rows = rows[:, self.again]
        self._found.clear()
        return PairScores(
            policy_chosen=rows[0],
            policy_rejected=rows[1],
            reference_chosen=rows[2],
            reference_rejected=rows[3],
            chosen_tokens=rows[4].long(),
            rejected_tokens=rows[5].long(),
            policy_tokens=tokens,
            columns=dict(zip(names, rows[6 : 6 + len(names)], strict=True)),
            statistics={
                name: rows[start : start + 2].T
                for name, start in zip(statistics, range(6 + len(names), len(rows), 2), strict=True)
            },
            step=step,
            total_steps=total_steps,
        )

    @property
    def starts(self) -> torch.Tensor:
        """(U, 2) int64: where the tokens of each completion begin, completion by completion of the different pairs."""
        flat = self.lengths.flatten()
        return (flat.cumsum(0) - flat).view(-1, 2)

    def token_places(self, places: torch.Tensor, scores: PairScores) -> torch.Tensor:
        """Return where the scored tokens of a micro-batch stand among those of the different pairs, (S,) int64.

        ``places`` (P,) are those of its pairs.
        """
        own = torch.stack([scores.chosen_tokens, scores.rejected_tokens], 1).flatten()
        assert scores.policy_tokens is not None
        return places_of_runs(self.starts[places].flatten(), own, len(scores.policy_tokens))

    def _has_tokens(self, parallel: Parallel) -> bool:
        # A rank may have filler pairs alone, and knows nothing of what the others scored.
        return parallel.any(any(scores.policy_tokens is not None for _, scores in self._found))[0]

    def _tokens(self, parallel: Parallel, times: torch.Tensor) -> torch.Tensor:
        """Return the log-probs of all scored tokens of the different pairs, completion by completion.

        ``times`` (U,) says on how many ranks each pair is.
        """
        tokens = torch.zeros(self._total, device=parallel.device)
        for places, scores in self._found:
            assert scores.policy_tokens is not None
            tokens[self.token_places(places, scores)] = scores.policy_tokens.detach()
        return parallel.sum(tokens) / times.repeat_interleave(self.lengths.sum(1), output_size=len(tokens))


@dataclass(frozen=True, slots=True)
class CoupledStep:
    """The losses of a step's pairs, and the gradients of their sum with respect to the policy's scores."""

    gathered: GatheredScores
    losses: torch.Tensor
    """(N,) float32, without gradients."""
    parts: tuple[str, ...]
    """Names of the loss's parts."""
    each: Mapping[str, torch.Tensor]
    """Of the U different pairs, (…, U): the reference's sums, losses and parts, and the gradients with respect to the
    policy's sums, as means over the times that a pair is there. Each time that it is scored carries that mean."""
    by_tokens: torch.Tensor | None
    """The same with respect to the log-probs of the scored tokens of the different pairs."""

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
        by_tokens = None
        if len(found) > 2:
            by_tokens = gathered.mean_of_each_token(found[2])
        reference = torch.stack([scores.reference_chosen, scores.reference_rejected])
        each = {_SUMS: torch.stack(found[:2]), _REFERENCE: reference, _LOSSES: losses.detach(), **parts}
        means = {name: gathered.mean_of_each(values.detach()) for name, values in each.items()}
        return cls(gathered, losses.detach(), tuple(parts), means, by_tokens)

    def reference(self, batch: PackedPairs) -> torch.Tensor:
        """Return (P, 2) the reference's sums of a micro-batch, which were computed with the policy's."""
        both = self.each[_REFERENCE].T
        return both[self.gathered.places(batch)] if batch.tokens else both[:1]

    def of_batch(self, batch: PackedPairs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the losses of a micro-batch's pairs and their parts, (P,) each."""
        if not batch.tokens:  # a filler pair has neither
            nothing = torch.zeros_like(self.losses[:1])
            return nothing, dict.fromkeys(self.parts, nothing)
        places = self.gathered.places(batch)
        return self.each[_LOSSES][places], {name: self.each[name][places] for name in self.parts}

    def carried(self, batch: PackedPairs, scores: PairScores) -> torch.Tensor:
        """Return a scalar whose gradient with respect to a micro-batch's scores is that of the step's losses' sum.

        ``scores`` are those of the pass with gradients.
        """
        if not batch.tokens:
            nothing: torch.Tensor = (scores.policy_chosen * 0).sum()
            return nothing
        places = self.gathered.places(batch)
        by_chosen, by_rejected = self.each[_SUMS][:, places]
        total: torch.Tensor = (scores.policy_chosen * by_chosen + scores.policy_rejected * by_rejected).sum()
        if self.by_tokens is not None and scores.policy_tokens is not None:
            by_token = self.by_tokens[self.gathered.token_places(places, scores)]
            total = total + (scores.policy_tokens * by_token).sum()
        return total


def _policy(scores: PairScores) -> list[torch.Tensor]:
    tokens = [] if scores.policy_tokens is None else [scores.policy_tokens]
    return [scores.policy_chosen, scores.policy_rejected, *tokens]
