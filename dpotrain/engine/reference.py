"""The reference's side of the scores: computed in every step, looked up, or absent.

Whatever the way, it is the policy's own scorer, or one of the same kind and precision, that computes it, so
that before the first update policy and reference agree to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from accelerate.utils import broadcast_object_list

from dpotrain.data.packing import PackedPairs, pack
from dpotrain.data.plan import Costs, sweep
from dpotrain.engine.dropout import dropout_off

if TYPE_CHECKING:
    from accelerate import Accelerator

    from dpotrain.data.tokenized import TokenizedPairs
    from dpotrain.engine.reference_store import ReferenceStore
    from dpotrain.engine.scorer import Scorer
    from dpotrain.plugin.components import Adapter
    from dpotrain.run.reporter import Reporter


class Reference(Protocol):
    """Gives (P, 2) float32 sums of chosen and rejected for a micro-batch, on its device, without gradients."""

    def scores(self, batch: PackedPairs) -> torch.Tensor: ...  # noqa: D102


class NoReference:
    """For losses that need none: zeros, so that rewards are beta times the policy's own log-probs."""

    def scores(self, batch: PackedPairs) -> torch.Tensor:  # noqa: D102
        return torch.zeros(len(batch.lengths), 2, device=batch.input_ids.device)


class InitialPolicy:
    """The policy's own weights with the adapter off, or with the adapter that training started from."""

    def __init__(self, scorer: Scorer, adapter: Adapter) -> None:
        self.scorer, self.adapter = scorer, adapter

    def scores(self, batch: PackedPairs) -> torch.Tensor:  # noqa: D102
        policy = self.scorer.policy
        with torch.no_grad(), dropout_off(policy), self.adapter.reference(policy):
            return self.scorer(batch)  # type: ignore[no-any-return]


class OtherModel:
    """A second model, held beside the policy."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer.requires_grad_(False)

    def scores(self, batch: PackedPairs) -> torch.Tensor:  # noqa: D102
        with torch.no_grad(), dropout_off(self.scorer.policy):
            return self.scorer(batch)  # type: ignore[no-any-return]


class Remembered:
    """Asks another reference about each pair once: held-out pairs come again in every evaluation."""

    def __init__(self, reference: Reference, pairs: int) -> None:
        self.reference = reference
        self.sums = torch.full((pairs, 2), torch.nan)

    def scores(self, batch: PackedPairs) -> torch.Tensor:  # noqa: D102
        if self.sums[batch.pairs].isnan().any():
            self.sums[batch.pairs] = self.reference.scores(batch).float().cpu()
        return self.sums[batch.pairs].to(batch.input_ids.device, non_blocking=True)


class Stored:
    """Log-probs that were computed before training."""

    def __init__(self, sums: torch.Tensor) -> None:
        self.sums = sums
        """(pairs of the data set, 2) float32, on the CPU."""

    def scores(self, batch: PackedPairs) -> torch.Tensor:  # noqa: D102
        return self.sums[batch.pairs].to(batch.input_ids.device, non_blocking=True)


def precompute(
    reference: Reference,
    store: ReferenceStore,
    data: TokenizedPairs,
    keys: Sequence[bytes],
    costs: Costs,
    budget: int,
    accelerator: Accelerator,
    reporter: Reporter,
    name: str,
) -> Stored:
    """Compute what ``store`` lacks of ``data``, appending as it goes, and return everything.

    Args:
        reference: what computes.
        store: where records are kept; the ranks share its folder.
        data: the pairs.
        keys: their keys, one a pair.
        costs: what the pairs cost.
        budget: tokens a micro-batch may hold.
        accelerator: splits the pairs over ranks.
        reporter: shows progress.
        name: what the progress bar is called.
    """
    # One process says what is missing: the others may see another state of the files, or none at all.
    told: list[Any] = [None]
    sums = np.zeros((len(data), 2), np.float32)
    if accelerator.is_main_process:
        store.load()
        told = [store.missing(keys)]
        known = [place for place, key in enumerate(keys) if key in store]
        sums[known] = store.lookup([keys[place] for place in known])
    (missing,) = broadcast_object_list(told)
    if len(missing):
        plan = sweep(missing, costs, accelerator.num_processes, budget)[accelerator.process_index]
        with reporter.phase(name, len(missing)) as advance:
            for pairs in plan:
                if not pairs:
                    continue
                batch = pack(data, pairs).to(accelerator.device)
                found = reference.scores(batch).float().cpu().numpy()
                store.append([keys[pair] for pair in pairs], found)
                sums[pairs] = found
                advance(len(pairs) * accelerator.num_processes)
    # Every pair was filled in by exactly one process, but for those that stand in the data twice.
    total = accelerator.reduce(torch.from_numpy(sums).to(accelerator.device), "sum").cpu()
    first: dict[bytes, int] = {}
    places = [first.setdefault(key, place) for place, key in enumerate(keys)]
    return Stored(total[places])
