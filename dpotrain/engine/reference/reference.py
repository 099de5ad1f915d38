"""The reference's side of the scores: computed in every step, looked up, or absent.

It is always computed by the policy's own scorer, or by one of the same kind and precision, so that policy and
reference agree to rounding before the first update.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from dpotrain.core.pair_columns import REFERENCE
from dpotrain.data.batches.packing import PackedPairs
from dpotrain.data.batches.segments import copy_to
from dpotrain.engine.reference.second_copy import SecondCopy
from dpotrain.engine.reference.store import Sums
from dpotrain.engine.scoring.dropout import dropout_off
from dpotrain.engine.scoring.scorer import Scorer
from dpotrain.recipe.sections.reference import ReferenceUpdate

#: Stores the sums (some, 2) of some pairs of a data set, by their indices (some,).
Store: TypeAlias = "Callable[[npt.NDArray[np.int64], Sums], None]"


class Reference(ABC):
    """The reference's side of one data set."""

    moving_weights: SecondCopy | None = None
    """What a checkpoint must keep of a reference that follows the policy."""
    of_microbatch = True
    """Whether it is computed of the policy's own micro-batches, so that both round alike."""

    @abstractmethod
    def scores(self, batch: PackedPairs) -> torch.Tensor:
        """Return (P, 2) float32 sums of chosen and rejected for a micro-batch, on its device, without gradients."""

    def after_step(self, step: int) -> None:  # noqa: B027  # most references stay as they are
        """Follow the policy, on every process alike. Called at the end of every step, updated or skipped."""

    def flush(self) -> None:  # noqa: B027  # most references have nothing to write
        """Write what was computed since the last call. Called between steps, where the device is waited for anyway."""


class NoReference(Reference):
    """For losses that need none: zeros, so that rewards are beta times the policy's own log-probs."""

    def scores(self, batch: PackedPairs) -> torch.Tensor:  # noqa: D102
        return torch.zeros(len(batch.lengths), 2, device=batch.input_ids.device)


class ColumnReference(Reference):
    """What two columns of the data hold."""

    def scores(self, batch: PackedPairs) -> torch.Tensor:  # noqa: D102
        return torch.stack([batch.columns[name] for name in REFERENCE], 1)


class LiveReference(Reference):
    """Computed by a model when it is asked for."""

    def __init__(
        self, scorer: Scorer, context: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> None:
        """Score with ``scorer``; ``context`` makes its model the reference, for example by turning the adapter off."""
        self.scorer, self.context = scorer, context

    def scores(self, batch: PackedPairs) -> torch.Tensor:  # noqa: D102
        with torch.no_grad(), dropout_off(self.scorer.policy), self.context():
            return self.scorer(batch)  # type: ignore[no-any-return]


class MovingReference(LiveReference):
    """The reference of TR-DPO (Gorbatovski et al. 2024, arXiv 2404.09656), which follows the policy.

    After every ``every`` steps it becomes ``share * policy + (1 - share) * reference``, weight by weight of those that
    are trained: the paper's soft update with alpha = ``share``, its hard update with ``share`` = 1. With LoRA both
    low-rank matrices are mixed, each with its own; their product is that of the mixed ones.
    """

    moving_weights: SecondCopy

    def __init__(self, scorer: Scorer, update: ReferenceUpdate) -> None:
        """Begin as what the policy of ``scorer`` is now."""
        self.moving_weights = SecondCopy(scorer.policy)
        super().__init__(scorer, self.moving_weights.in_policy)
        self.update = update

    def after_step(self, step: int) -> None:
        """Follow the policy where the number of the step is a multiple of ``every``, also after a skipped step."""
        if step % self.update.every == 0:
            self.moving_weights.mix_in(self.update.share)


class PrecomputedReference(Reference):
    """Looks up log-probs that were computed before training."""

    of_microbatch = False

    def __init__(self, sums: torch.Tensor) -> None:
        """Look up in ``sums``, (pairs of the data set, 2) float32 on the CPU."""
        self.sums = sums

    def scores(self, batch: PackedPairs) -> torch.Tensor:  # noqa: D102
        return copy_to(self.sums[batch.pairs], batch.input_ids.device)

    def spread(self, places: torch.Tensor, pairs: int) -> PrecomputedReference:
        """Return the same for a larger data set of so many ``pairs``, in which those of this one have ``places``.

        What is not known is not a number, so that no step takes it for one.
        """
        if len(self.sums) == pairs:
            return self
        sums = torch.full((pairs, 2), torch.nan)
        sums[places] = self.sums
        return PrecomputedReference(sums)


class CachedReference(PrecomputedReference):
    """Asks another reference for each pair once: held-out pairs come again in every evaluation."""

    def __init__(
        self, reference: Reference, pairs: int, agreed: Callable[[bool], bool] = lambda unknown: unknown
    ) -> None:
        """Ask ``reference`` for the pairs of a data set of so many.

        ``agreed`` makes it one decision of all ranks where its passes are collective (see :meth:`.Parallel.agreed`).
        """
        super().__init__(torch.full((pairs, 2), torch.nan))
        self.reference, self.agreed = reference, agreed

    def scores(self, batch: PackedPairs) -> torch.Tensor:  # noqa: D102
        if self.agreed(bool(self.sums[batch.pairs].isnan().any())):
            self.sums[batch.pairs] = self.reference.scores(batch).float().cpu()
        return super().scores(batch)

    def flush(self) -> None:  # noqa: D102
        self.reference.flush()


class StoringReference(Reference):
    """Stores what another reference computes, so that later runs find it."""

    def __init__(self, reference: Reference, stored: npt.NDArray[np.bool_], store: Store) -> None:
        """Wrap ``reference``; ``stored`` (pairs of the data set,) marks the pairs that ``store`` has already."""
        self.reference, self.store = reference, store
        self._stored = stored.copy()
        self._fresh: list[tuple[torch.Tensor, torch.Tensor]] = []

    def scores(self, batch: PackedPairs) -> torch.Tensor:  # noqa: D102
        sums = self.reference.scores(batch)
        if batch.tokens:  # otherwise its pair only fills an empty micro-batch, and is stored elsewhere
            self._fresh.append((batch.pairs, sums))
        return sums

    def flush(self) -> None:  # noqa: D102
        if not self._fresh:
            return
        pairs = torch.cat([pairs for pairs, _ in self._fresh]).numpy()
        sums = torch.cat([sums for _, sums in self._fresh]).float().cpu().numpy()
        self._fresh.clear()
        # A step that ran out of memory scores its pairs twice.
        pairs, first = np.unique(pairs, return_index=True)
        new = ~self._stored[pairs]
        self._stored[pairs] = True
        if new.any():
            self.store(pairs[new], sums[first[new]])
