"""Reference log-probs from stores: found and verified, computed before training, or stored during training.

There are two stores. The shared one is for later runs. The run's own holds exactly what this run uses, so that a
resumed run reads the same numbers to the last bit, whatever other runs have added to the shared one since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from dpotrain.core.reporter import Reporter
from dpotrain.core.write_errors import writing
from dpotrain.data.batches.packing import pack
from dpotrain.data.batches.plan import Costs, MicroBatch, batch_by_length
from dpotrain.data.tokens.keys import Keys, sortable
from dpotrain.data.tokens.tokenized import TokenizedPairs
from dpotrain.engine.memory.out_of_memory import in_parts
from dpotrain.engine.parallel.progress import over_ranks
from dpotrain.engine.parallel.protocol import Parallel
from dpotrain.engine.reference.reference import PrecomputedReference, Reference, StoringReference
from dpotrain.engine.reference.store import ReferenceStore, Sums

#: Whether the run needs each pair, (pairs,).
Used: TypeAlias = npt.NDArray[np.bool_]

#: Pairs that are computed again to verify the records of an earlier process.
CHECKED = 4


@dataclass(frozen=True, slots=True)
class StoredReferences:
    """The stores of one reference, and what computes it."""

    live: Reference
    own: ReferenceStore
    """In the run's folder."""
    shared: ReferenceStore | None
    exact: bool
    """Whether ``live`` computes in float32 throughout, so that its numbers hardly depend on the micro-batches."""
    resuming: bool
    """Whether an earlier process has taken steps of this run."""
    parallel: Parallel
    reporter: Reporter
    _unwritable: set[str] = field(default_factory=set)
    """Folders that a warning has named already."""

    def precompute(
        self, data: TokenizedPairs, costs: Costs, budget: int, name: str, used: Used | None = None
    ) -> PrecomputedReference:
        """Compute and store what the stores lack of ``data``, and return all of it.

        ``budget`` bounds the tokens of a micro-batch by ``costs``; ``name`` labels the progress bar. ``used`` says
        which of the pairs the run needs, (pairs,); the others are left out, and are not a number.
        """
        if used is not None and not used.all():
            chosen = np.flatnonzero(used)
            costs = replace(costs, lengths=costs.lengths[chosen], longest=costs.longest[chosen])
            computed = self.precompute(data.select(chosen), costs, budget, name)
            return computed.spread(torch.from_numpy(chosen), len(data))
        parallel = self.parallel
        # The main process decides what is missing: others may see older files, or none at all.
        missing: npt.NDArray[np.int64] | None = None
        sums: Sums = np.zeros((len(data), 2), np.float32)
        _, first, again = np.unique(sortable(data.keys), return_index=True, return_inverse=True)
        found = self._found(data, [self.own, self.shared])
        if parallel.is_main:
            missing = np.sort(first[np.isnan(found[first, 0])])
            sums = np.nan_to_num(found)
        missing = parallel.broadcast_object(missing)
        assert missing is not None
        if len(missing):
            store = self.shared or self.own
            plan = batch_by_length(missing, costs, parallel.data_size, budget)[parallel.data_rank]
            with self.reporter.phase(name, len(missing)) as bar:
                advance = over_ranks(bar, sum(map(len, plan)), len(missing))

                def compute(pairs: MicroBatch) -> None:
                    batch = pack(data, pairs).to(parallel.device)
                    computed = self.live.scores(batch).float().cpu().numpy()
                    if not len(pairs):  # a filler pair, for passes that are collective
                        return
                    places = np.asarray(pairs, np.int64)
                    self._append(store, data.keys[places], computed)
                    sums[places] = computed
                    advance(len(pairs))

                for pairs in plan:
                    in_parts(pairs, compute, parallel)
        # Exactly one process computed each distinct pair; `first[again]` finds it for those that occur twice.
        return self._precomputed(data.keys, sums, first[again])

    def live_unless_stored(self, data: TokenizedPairs, used: Used | None = None) -> Reference:
        """Return what is stored if that is all of ``data``, otherwise the live reference, whose sums are stored.

        ``used`` says which of the pairs the run needs, (pairs,); all of them unless given. A resumed run uses what its
        first steps used.
        """
        needed = np.arange(len(data)) if used is None else np.flatnonzero(used)
        complete, known = False, np.zeros(len(data), bool)
        sums: Sums = np.zeros((len(needed), 2), np.float32)
        found = self._found(data, [self.own] if self.resuming else [self.own, self.shared])
        if self.parallel.is_main:
            complete = not bool(np.isnan(found[needed]).any())
            if complete:
                sums = found[needed]
            elif self.resuming and self.shared is not None:
                self.shared.load()
                found = self.shared.lookup(data.keys)
            known = ~np.isnan(found[:, 0])
        complete, known = self.parallel.broadcast_object((complete, known))
        if complete:
            stored = self._precomputed(data.keys[needed], sums, np.arange(len(needed)))
            return stored.spread(torch.from_numpy(needed), len(data))
        if self.shared is None:
            return self.live
        store = self.shared
        return StoringReference(
            self.live, known, lambda pairs, sums: self._append(store, data.keys[pairs], sums)
        )

    def _found(self, data: TokenizedPairs, stores: Sequence[ReferenceStore | None]) -> Sums:
        """Return what the stores have of ``data``, earlier stores first: (pairs, 2), NaN where none has a record.

        A store is quarantined where its records differ from what the reference computes now. Collective: the main
        process reads the stores, and it alone finds records.
        """
        sums: Sums = np.full((len(data), 2), np.nan, np.float32)
        for store in stores:
            if store is None:
                continue
            pairs, found = np.zeros(0, np.int64), sums[:0]
            if self.parallel.is_main and len(absent := np.flatnonzero(np.isnan(sums[:, 0]))):
                store.load()
                found = store.lookup(data.keys[absent])
                there = ~np.isnan(found[:, 0])
                pairs, found = absent[there], found[there]
            if self._agree(store, data, pairs, found):
                sums[pairs] = found
        return sums

    def _agree(
        self, store: ReferenceStore, data: TokenizedPairs, pairs: npt.NDArray[np.int64], sums: Sums
    ) -> bool:
        """Compute a few of the pairs again; where they differ by more than rounding, quarantine the store. Collective.

        The processes compute those of the main process.
        """
        sample = np.random.default_rng(len(pairs)).choice(len(pairs), min(CHECKED, len(pairs)), replace=False)
        stored = self.parallel.broadcast_object([(int(pairs[place]), sums[place]) for place in sample])
        agree = True
        for pair, before in stored:
            batch = pack(data, [pair])
            now = self.live.scores(batch.to(self.parallel.device)).float().cpu().numpy()[0]
            off = np.abs(now - before)
            if agree and (off > rounding(now, batch.scored_tokens.numpy()[0], self.exact)).any():
                agree = False
                if self.parallel.is_main:
                    self._quarantine(store, float(off.max()), int(data.rows[pair]))
        return agree

    def _quarantine(self, store: ReferenceStore, off: float, row: int) -> None:
        try:
            done = f"The folder is renamed to {store.quarantine().name}"
        except OSError as error:
            done = f"The folder cannot be renamed ({error.strerror or error})"
        self.reporter.warn(
            f"the reference log-probs stored in {store.folder} differ from what the reference computes now: "
            f"row {row} differs by {off:.3g} nats.\n{done}; its log-probs are computed again."
        )

    def _append(self, store: ReferenceStore, keys: Keys, sums: Sums) -> None:
        """Store what was computed; a failure is only a warning, because this run does not need the records."""
        if not self.parallel.first_of_data_rank:
            return
        try:
            store.append(keys, sums)
        except OSError as error:
            if str(store.folder) not in self._unwritable:
                self._unwritable.add(str(store.folder))
                self.reporter.warn(
                    f"reference log-probs cannot be stored in {store.folder} ({error.strerror or error}); "
                    "the run continues without storing them"
                )

    def _precomputed(self, keys: Keys, sums: Sums, places: npt.NDArray[np.int64]) -> PrecomputedReference:
        """Add up the ranks' sums, (pairs, 2) each, and return for each pair those at its place.

        What the run's own store lacks is written there.

        Raises:
            RunError: it cannot be written.
        """
        total = self.parallel.sum(torch.from_numpy(sums).to(self.parallel.device)).cpu()
        whole = total.numpy()[places]
        if self.parallel.is_main:
            self.own.load()
            new = np.isnan(self.own.lookup(keys)[:, 0])
            if new.any():
                # A resumed run without it might use other numbers, so this failure ends the run, before any step.
                with writing(self.own.folder):
                    self.own.append(keys[new], whole[new])
        return PrecomputedReference(torch.from_numpy(whole))


def rounding(sums: Sums, tokens: npt.NDArray[np.int64], exact: bool) -> npt.NDArray[np.float64]:
    """Return by how much sums (…,) over so many scored tokens (…,) may differ between two ways of computing them.

    In float32 that is over ten times what the packed and the ordinary forward differ by on one machine. With 16 bits or
    fewer a token may be off by half a nat, in either direction, so a sum by that times the root of their number. Other
    weights, or another mask, are off by several times as much.
    """
    if exact:
        return 1e-3 + 1e-4 * np.abs(sums.astype(np.float64))
    return 0.5 * np.sqrt(np.maximum(tokens, 1).astype(np.float64))
