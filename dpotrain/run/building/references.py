"""Building the reference of a run, as its :class:`.ReferencePlan` says."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from dpotrain.data.batches.plan import Costs
from dpotrain.data.tokens.tokenized import TokenizedPairs
from dpotrain.engine.memory.budget import MOST_TOKENS
from dpotrain.engine.memory.device_memory import release_memory
from dpotrain.engine.reference.plan import ReferencePlan
from dpotrain.engine.reference.reference import (
    CachedReference,
    ColumnReference,
    LiveReference,
    MovingReference,
    NoReference,
    Reference,
)
from dpotrain.engine.reference.second_copy import SecondCopy
from dpotrain.engine.reference.store import ReferenceStore
from dpotrain.engine.reference.stored import StoredReferences, Used
from dpotrain.engine.scoring.scorer import Scorer
from dpotrain.plugin.api import Adapter
from dpotrain.recipe.sections.reference import INITIAL_POLICY
from dpotrain.run.building.engine_builder import EngineBuilder, batch_plan


@dataclass(frozen=True, slots=True)
class References:
    """The reference's side of both data sets."""

    train: Reference
    evaluation: Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceBuilder:
    """Loads, computes or looks up the reference."""

    engine: EngineBuilder
    plan: ReferencePlan
    own_store: Path
    """Folder of the reference log-probs that this run uses."""
    shared_store: Path | None
    """Folder of those that later runs may find."""
    resuming: bool
    """Whether an earlier process has taken steps of this run."""

    def before_policy(self) -> References | None:
        """Return a separate model's log-probs, or the model itself to stay beside the policy; None for other plans."""
        if not self.plan.loaded_before_policy:
            return None
        references = self._separate_model()
        release_memory()
        return references

    def after_policy(self, scorer: Scorer, adapter: Adapter, tokens: int) -> References:
        """Return the untrained policy as reference, live or stored. Call it before a checkpoint is loaded.

        ``tokens`` bounds a micro-batch with gradients.
        """
        engine, recipe, plan = self.engine, self.engine.recipe, self.plan
        if plan.model == "none":
            return References(NoReference(), NoReference())
        if plan.model == "data":
            return References(ColumnReference(), ColumnReference())
        in_place, update = recipe.trains_in_place, recipe.reference.update
        if update is not None:
            live: LiveReference = MovingReference(scorer, update)
        elif plan.model == "second copy":
            live = LiveReference(scorer, SecondCopy(scorer.policy).in_policy)
        else:
            context = nullcontext if in_place else partial(adapter.reference, scorer.policy)
            live = LiveReference(scorer, context)
        if plan.computed == "every step":
            return References(live, live)
        # For weights trained in place an adapter in the loader's source is merged, which rounds.
        identity: dict[str, Any] = {"merged": in_place}
        options = adapter.options.model_dump(mode="json")
        if not adapter.starts_as_base:
            identity["adapter"] = {"use": adapter.name, "seed": recipe.seed, **options}
        elif in_place and len({weight.dtype for weight in scorer.policy.parameters()}) > 1:
            # Beside 16-bit weights, the products of those that the adapter upcast round in another place.
            identity["adapter"] = {"use": adapter.name, **options}
        stored = self._stores(live, self._fingerprint(), identity)
        if plan.pass_before_training:
            return self._precompute(stored, scorer.packs, engine.tokens_without_gradients(tokens))
        train, held_out = stored.live_unless_stored(engine.data.train, self._used()), engine.data.evaluation
        if held_out is None:
            return References(train, train)
        cached = CachedReference(stored.live_unless_stored(held_out), len(held_out), engine.parallel.agreed)
        return References(train, cached)

    def _separate_model(self) -> References:
        engine, recipe = self.engine, self.engine.recipe
        loaded = engine.load_reference()
        engine.shard(loaded)
        scorer = engine.scorer(loaded.model, "the reference")
        engine.divide_rows(scorer, "the reference")
        live = LiveReference(scorer)
        if self.plan.model_beside_policy:
            return References(live, live)
        wanted = recipe.training.tokens_per_microbatch
        tokens = MOST_TOKENS[engine.parallel.device.type] if wanted == "auto" else wanted
        stored = self._stores(live, self._fingerprint(recipe.reference.of), {})
        return self._precompute(stored, scorer.packs, tokens)

    def _fingerprint(self, *source: str) -> str:
        with self.engine.reporter.phase("hashing the model's files", None):
            return self.engine.recipe.model.fingerprint(*source)

    def _stores(self, live: LiveReference, fingerprint: str, more: dict[str, Any]) -> StoredReferences:
        """Return the stores of what ``live`` computes, by the hash of all that changes its numbers."""
        engine, recipe = self.engine, self.engine.recipe
        initial = recipe.reference.of == INITIAL_POLICY
        quantizer = recipe.quantizer if initial else recipe.reference.quantizer
        identity = {
            "weights": fingerprint,
            "loader": recipe.model.name,
            "quantizer": None
            if quantizer is None
            else {"use": quantizer.name, **quantizer.options.model_dump(mode="json")},
            "precision": engine.precision,
            "device": engine.parallel.device.type,
            # Releases fix its models now and then.
            "transformers": version("transformers"),
            **more,
        }
        if (tail := live.scorer.tail_weight) != 1.0:
            identity["tail_weight"] = tail
        weights = live.scorer.policy.parameters()
        return StoredReferences(
            live,
            ReferenceStore(self.own_store, identity),
            None if self.shared_store is None else ReferenceStore(self.shared_store, identity),
            exact=not engine.bf16 and all(weight.dtype == torch.float32 for weight in weights),
            resuming=self.resuming,
            parallel=engine.parallel,
            reporter=engine.reporter,
        )

    def _used(self) -> Used:
        """Return which of the training pairs some step of the run needs."""
        data = self.engine.data
        costs = Costs.of_data(data.train, padded=False)
        used = batch_plan(self.engine.recipe, data.mixture, costs, tokens=1).used()
        used[costs.lengths.argmin()] = True  # it fills micro-batches (see `pack`)
        return used

    def _precompute(self, stored: StoredReferences, packs: bool, tokens: int) -> References:
        """Compute what is not stored yet, and return all of it."""

        def of(pairs: TokenizedPairs, name: str, used: Used | None = None) -> Reference:
            return stored.precompute(pairs, Costs.of_data(pairs, padded=not packs), tokens, name, used)

        train, held_out = of(self.engine.data.train, "reference", self._used()), self.engine.data.evaluation
        return References(train, train if held_out is None else of(held_out, "reference (held out)"))
