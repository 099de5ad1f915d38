"""The reference's side of the scores: computed in every step, looked up, or absent.

Whatever the way, it is the policy's own scorer, or one of the same kind and precision, that computes it, so
that before the first update policy and reference agree to rounding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from dpotrain.data.batches.packing import PackedPairs
from dpotrain.engine.scoring.dropout import dropout_off

if TYPE_CHECKING:
    from dpotrain.engine.reference.store import Sums
    from dpotrain.engine.scoring.scorer import Scorer
    from dpotrain.plugin.api import Adapter


#: Takes note of the sums (some, 2) of some pairs of a data set, by their indices (some,).
Keep: TypeAlias = "Callable[[npt.NDArray[np.int64], Sums], None]"


class Reference(ABC):
    """The reference's side of one data set."""

    @abstractmethod
    def scores(self, batch: PackedPairs) -> torch.Tensor:
        """Return (P, 2) float32 sums of chosen and rejected for a micro-batch, on its device, without gradients."""

    def flush(self) -> None:  # noqa: B027  # to have nothing to do is the rule, not an omission
        """Do what was put off so that the device need not be waited for. Called between steps."""


class NoReference(Reference):
    """For losses that need none: zeros, so that rewards are beta times the policy's own log-probs."""

    def scores(self, batch: PackedPairs) -> torch.Tensor:  # noqa: D102
        return torch.zeros(len(batch.lengths), 2, device=batch.input_ids.device)


class InitialPolicy(Reference):
    """The policy's own weights with the adapter off, or with the adapter that training started from."""

    def __init__(self, scorer: Scorer, adapter: Adapter) -> None:
        self.scorer, self.adapter = scorer, adapter

    def scores(self, batch: PackedPairs) -> torch.Tensor:  # noqa: D102
        policy = self.scorer.policy
        with torch.no_grad(), dropout_off(policy), self.adapter.reference(policy):
            return self.scorer(batch)  # type: ignore[no-any-return]


class OtherModel(Reference):
    """A second model, held beside the policy."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer.requires_grad_(False)

    def scores(self, batch: PackedPairs) -> torch.Tensor:  # noqa: D102
        with torch.no_grad(), dropout_off(self.scorer.policy):
            return self.scorer(batch)  # type: ignore[no-any-return]


class Remembered(Reference):
    """Asks another reference about each pair once: held-out pairs come again in every evaluation."""

    def __init__(self, reference: Reference, pairs: int) -> None:
        self.reference = reference
        self.sums = torch.full((pairs, 2), torch.nan)

    def scores(self, batch: PackedPairs) -> torch.Tensor:  # noqa: D102
        if self.sums[batch.pairs].isnan().any():
            self.sums[batch.pairs] = self.reference.scores(batch).float().cpu()
        return self.sums[batch.pairs].to(batch.input_ids.device, non_blocking=True)

    def flush(self) -> None:  # noqa: D102
        self.reference.flush()


class Recording(Reference):
    """Asks another reference in every step, and hands on what it said, so that a later run need not ask."""

    def __init__(self, reference: Reference, known: npt.NDArray[np.bool_], keep: Keep) -> None:
        """Wrap ``reference``; ``known`` (pairs of the data set,) says which pairs ``keep`` need not be told of."""
        self.reference, self.keep = reference, keep
        self._known = known.copy()
        self._fresh: list[tuple[torch.Tensor, torch.Tensor]] = []

    def scores(self, batch: PackedPairs) -> torch.Tensor:  # noqa: D102
        sums = self.reference.scores(batch)
        if batch.tokens:  # or it only keeps another rank company, which has these pairs itself
            self._fresh.append((batch.pairs, sums))
        return sums

    def flush(self) -> None:  # noqa: D102
        if not self._fresh:
            return
        pairs = torch.cat([pairs for pairs, _ in self._fresh]).numpy()
        sums = torch.cat([sums for _, sums in self._fresh]).float().cpu().numpy()
        self._fresh.clear()
        # A step that ran out of memory brings its pairs twice.
        pairs, first = np.unique(pairs, return_index=True)
        new = ~self._known[pairs]
        self._known[pairs] = True
        if new.any():
            self.keep(pairs[new], sums[first[new]])


class Stored(Reference):
    """Log-probs that were computed before training."""

    def __init__(self, sums: torch.Tensor) -> None:
        self.sums = sums
        """(pairs of the data set, 2) float32, on the CPU."""

    def scores(self, batch: PackedPairs) -> torch.Tensor:  # noqa: D102
        return self.sums[batch.pairs].to(batch.input_ids.device, non_blocking=True)
