"""Putting the engine together from a recipe: policy, scorer, references, budget."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dpotrain.core.errors import RunError
from dpotrain.data.batches.packing import PackedPairs, pack
from dpotrain.data.batches.plan import Costs
from dpotrain.engine.layers.memory_efficient import make_lean
from dpotrain.engine.memory.budget import MOST_TOKENS
from dpotrain.engine.memory.host_memory import give_freed_memory_back
from dpotrain.engine.reference.reference import (
    InitialPolicy,
    NoReference,
    OtherModel,
    Reference,
    Remembered,
    Stored,
)
from dpotrain.engine.reference.store import ReferenceStore
from dpotrain.engine.reference.stored import StoredReferences
from dpotrain.engine.scoring.precision import Precision, Widened, computed_in, multiplies_bfloat16
from dpotrain.engine.scoring.probe import choose_scorer
from dpotrain.engine.scoring.scorer import causal_lm
from dpotrain.engine.training.all_weights import AllWeights
from dpotrain.plugin.api import LoadRequest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from dpotrain.core.reporter import Reporter
    from dpotrain.data.prepare import PreparedData
    from dpotrain.data.tokens.tokenized import TokenizedPairs
    from dpotrain.engine.parallel.protocol import Parallel
    from dpotrain.engine.scoring.scorer import Scorer
    from dpotrain.plugin.api import Adapter
    from dpotrain.recipe.recipe import Recipe

INITIAL = "initial-policy"
#: Tokens of the pairs that the packed forward is proven on.
PROBE_TOKENS = 256


@dataclass(frozen=True, slots=True)
class References:
    """The reference's side of both data sets."""

    train: Reference
    evaluation: Reference

    @property
    def live(self) -> bool:
        """Whether a step computes the reference."""
        return not isinstance(self.train, (NoReference, Stored))


@dataclass
class EngineBuilder:
    """The engine's parts for one run."""

    recipe: Recipe
    parallel: Parallel
    data: PreparedData
    reporter: Reporter
    own_store: Path
    """Folder of the reference log-probs that this run goes by."""
    shared_store: Path | None
    """Folder of those that later runs may find."""
    going_on: bool
    """Whether an earlier process has taken steps of this run."""
    widened: Widened | None = None
    """Weights of the policy that are held in more bits than they were loaded in."""

    @property
    def adapter(self) -> Adapter:
        """What is trained: the recipe's adapter, or all weights."""
        return self.recipe.adapter or AllWeights(AllWeights.Options())

    @property
    def precision(self) -> Precision:
        """What the scorers compute in."""
        return computed_in(self.recipe.training.precision, self.parallel.device.type)

    @property
    def bf16(self) -> bool:
        """Whether the scorers run under bfloat16 autocast."""
        return self.precision == "bf16"

    def load_policy(self, adapter: Adapter) -> PreTrainedModel:
        """Load the policy, quantized if the recipe says so, with its adapter attached."""
        recipe, quantizer = self.recipe, self.recipe.quantizer
        request = LoadRequest(
            quantization=None if quantizer is None else quantizer.loading_config(),
            keep_adapter=recipe.adapter is not None,
            device=str(self.parallel.device),
        )
        with self.reporter.phase("loading the model", None):
            policy = recipe.model.load_model(request)
        if quantizer is not None:
            quantizer.prepare(policy)
        self.widened = self._widen(policy)
        policy = adapter.attach(policy)
        if not any(weight.requires_grad for weight in policy.parameters()):
            raise RunError(
                f'[adapter] use = "{adapter.name}" leaves nothing to train: no parameter requires gradients.'
            )
        if recipe.adapter is None and any(weight.dtype != torch.float32 for weight in policy.parameters()):
            self.reporter.warn(
                "all weights are trained in 16 bits, where an update smaller than about 1/256 of a weight is lost.\n"
                'model.dtype = "float32" with training.precision = "bf16" keeps them, at twice the memory.'
            )
        return policy

    def _widen(self, model: PreTrainedModel) -> Widened | None:
        return None if multiplies_bfloat16(self.parallel.device.type) else Widened(model)

    def scorer(self, model: PreTrainedModel, what: str) -> Scorer:
        """Return the scorer that ``model`` is proven to take; say so where it has to be padded."""
        self._check_vocabulary(model, what)
        if not self.recipe.training.compile:  # a compiler fuses by itself
            make_lean(model)
        sample = self._sample().to(self.parallel.device)
        chosen = choose_scorer(model, sample, packing=self.recipe.training.packing, bf16=self.bf16)
        if chosen.reason:
            self.reporter.warn(f"{what}: pairs are padded instead of packed: {chosen.reason}")
        return chosen.scorer

    def _check_vocabulary(self, model: PreTrainedModel, what: str) -> None:
        """On a GPU a token beyond the embedding would end in an assertion of the device, without a word."""
        rows = causal_lm(model).get_input_embeddings().weight.shape[0]
        largest = max(pairs.largest_token for pairs in (self.data.train, self.data.evaluation) if pairs)
        if largest >= rows:
            raise RunError(
                f"the data has token {largest}, and {what} has an embedding of {rows} tokens: its tokenizer is not "
                "the one that the data went through.\nUse a model and a tokenizer that belong together."
            )

    def _reference_budget(self) -> int:
        """Return the tokens of a micro-batch for a reference that is asked before the policy is there.

        It keeps no activations; should memory run out all the same, micro-batches are split.
        """
        wanted = self.recipe.training.tokens_per_microbatch
        return MOST_TOKENS[self.parallel.device.type] // 2 if wanted == "auto" else wanted

    def budget_without_gradients(self, budget: int) -> int:
        """Return the tokens of a pass that keeps no activations; what the recipe sets holds there too."""
        return 2 * budget if self.recipe.training.tokens_per_microbatch == "auto" else budget

    def other_reference(self) -> References | None:
        """Where ``reference.of`` names another model: its log-probs, or the model itself beside the policy.

        Comes before the policy is loaded, so that a precomputed one is gone by then. None for the initial
        policy.
        """
        section = self.recipe.reference
        if section.of == INITIAL or not self.recipe.loss.needs_reference:
            return None
        with self.reporter.phase("loading the reference", None):
            model = self.recipe.model.load_model(
                LoadRequest(source=section.of, device=str(self.parallel.device))
            )
        model.requires_grad_(False)
        self._widen(model)
        scorer = self.scorer(model, "the reference")
        live = OtherModel(scorer)
        if section.when == "live":
            return References(live, live)
        budget = self._reference_budget()
        stored = self._precomputed(
            self._stored_references(live, model, self.recipe.model.fingerprint(section.of), {}),
            scorer.packs,
            budget,
        )
        del live, scorer, model
        free_memory_between_phases()
        return stored

    def initial_reference(self, scorer: Scorer, adapter: Adapter, budget: int) -> References:
        """Return the untrained policy as reference: with the adapter off in every step, or stored.

        Must be called before anything of a checkpoint is loaded.
        """
        recipe = self.recipe
        if not recipe.loss.needs_reference:
            none = NoReference()
            return References(none, none)
        full = recipe.adapter is None
        live = _UntouchedPolicy(scorer) if full else InitialPolicy(scorer, adapter)
        when = recipe.reference.when
        if when == "live" and full:
            second = self._second_copy()
            return References(second, second)
        if when == "live":
            return References(live, live)
        # An adapter in the loader's source is merged for full training, which rounds.
        more: dict[str, Any] = {"merged": full}
        if not full and not adapter.starts_as_base:
            options = adapter.options.model_dump(mode="json")
            more["adapter"] = {"use": adapter.name, "seed": recipe.seed, **options}
        stored = self._stored_references(live, scorer.policy, recipe.model.fingerprint(), more)
        if when == "precomputed" or full or recipe.training.epochs > 1:
            return self._precomputed(stored, scorer.packs, budget)
        # Each training pair is met once, so a pass before training would cost what it saves.
        train, held_out = stored.unless_complete(self.data.train), self.data.evaluation
        if held_out is None:
            return References(train, train)
        evaluation = stored.unless_complete(held_out)
        met_again = not isinstance(evaluation, Stored)
        return References(train, Remembered(evaluation, len(held_out)) if met_again else evaluation)

    def second_copy_to_come(self, references: References | None) -> bool:
        """Whether :meth:`initial_reference` is going to load the policy a second time."""
        recipe = self.recipe
        needed = references is None and recipe.loss.needs_reference
        return needed and recipe.adapter is None and recipe.reference.when == "live"

    def _second_copy(self) -> Reference:
        request = LoadRequest(keep_adapter=False, device=str(self.parallel.device))
        with self.reporter.phase("loading the reference", None):
            model = self.recipe.model.load_model(request)
        model.requires_grad_(False)
        self._widen(model)
        return OtherModel(self.scorer(model, "the reference"))

    def _stored_references(
        self, live: Reference, model: torch.nn.Module, fingerprint: str, more: dict[str, Any]
    ) -> StoredReferences:
        """Return the stores of what ``live``, by way of ``model``, computes."""
        recipe = self.recipe
        quantizer = recipe.quantizer if recipe.reference.of == INITIAL else None
        identity = {
            "weights": fingerprint,
            "loader": recipe.model.name,
            "quantizer": None
            if quantizer is None
            else {"use": quantizer.name, **quantizer.options.model_dump(mode="json")},
            "precision": self.precision,
            "device": self.parallel.device.type,
            # Its models are mended now and then.
            "transformers": version("transformers"),
            **more,
        }
        return StoredReferences(
            live,
            ReferenceStore(self.own_store, identity),
            None if self.shared_store is None else ReferenceStore(self.shared_store, identity),
            exact=not self.bf16 and all(weight.dtype == torch.float32 for weight in model.parameters()),
            going_on=self.going_on,
            parallel=self.parallel,
            reporter=self.reporter,
        )

    def _precomputed(self, stored: StoredReferences, packs: bool, budget: int) -> References:
        """Compute what is not stored yet, and return all of it."""

        def of(pairs: TokenizedPairs, name: str) -> Reference:
            costs = costs_of(pairs, padded=not packs)
            return stored.precompute(pairs, costs, self.budget_without_gradients(budget), name)

        train = of(self.data.train, "reference")
        held_out = self.data.evaluation
        return References(train, train if held_out is None else of(held_out, "reference (held out)"))

    def _sample(self) -> PackedPairs:
        """Return a few of the shortest pairs, for the probe."""
        by_length = np.argsort(self.data.train.lengths, kind="stable")
        total = np.cumsum(self.data.train.lengths[by_length])
        count = max(1, min(4, int(np.searchsorted(total, PROBE_TOKENS))))
        return pack(self.data.train, [int(pair) for pair in by_length[:count]])


class _UntouchedPolicy(Reference):
    """The policy itself, while it is still untrained."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer

    def scores(self, batch: PackedPairs) -> torch.Tensor:
        with torch.no_grad():
            return self.scorer(batch)  # type: ignore[no-any-return]


def costs_of(pairs: TokenizedPairs, padded: bool) -> Costs:
    """Return what pairs cost in a micro-batch."""
    longest = pairs.prompt_lengths + np.maximum(pairs.chosen_lengths, pairs.rejected_lengths)
    return Costs(pairs.lengths, longest, padded)


def free_memory_between_phases() -> None:
    """Give back what the phase before left behind: a model, or what was computed with one."""
    gc.collect()
    give_freed_memory_back()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
