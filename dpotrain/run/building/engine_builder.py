"""Building policy and scorers from a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from dpotrain.core.errors import RunError
from dpotrain.core.formats import megabytes
from dpotrain.core.reporter import Reporter
from dpotrain.data.batches.mixture import Mixture
from dpotrain.data.batches.packing import PackedPairs, pack, shorten
from dpotrain.data.batches.plan import BatchPlan, Costs
from dpotrain.data.prepare import PreparedData
from dpotrain.data.tokens.tokenized import TokenizedPairs
from dpotrain.engine.layers.cast_again import cast_again
from dpotrain.engine.layers.checkpointing import decoder_layers
from dpotrain.engine.layers.choose_kernels import LABELS, Sizes, candidates, choose_kernels, use_kernels
from dpotrain.engine.layers.compiling import compile_scorer
from dpotrain.engine.layers.memory_efficient import use_memory_efficient_layers
from dpotrain.engine.memory.device_memory import release_memory
from dpotrain.engine.parallel.protocol import Parallel
from dpotrain.engine.reference.plan import ReferencePlan
from dpotrain.engine.scoring.divided_rows import divide_rows
from dpotrain.engine.scoring.positions import check_positions
from dpotrain.engine.scoring.precision import Precision, UpcastWeights, compute_precision, multiplies_bfloat16
from dpotrain.engine.scoring.probe import NotFiniteLogits, choose_scorer
from dpotrain.engine.scoring.router_loss import RouterLoss, Routing
from dpotrain.engine.scoring.scorer import Scorer, causal_lm
from dpotrain.engine.scoring.tied_head import share_gradient
from dpotrain.engine.sharding.shards import local_shard
from dpotrain.engine.training.all_weights import AllWeights
from dpotrain.plugin.api import Adapter, LoadRequest, Selection
from dpotrain.plugin.api.returns import WrongReturnError
from dpotrain.recipe.recipe import Recipe
from dpotrain.run.building.loading import Loaded, load

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Tokens of the pairs that the packed forward is proven on.
PROBE_TOKENS = 256
#: Tokens of a row that kernels are compared on where the recipe leaves the size of micro-batches to the run.
ROW_TOKENS = 8192


@dataclass
class EngineBuilder:
    """Loads the policy, and gives models their scorers."""

    recipe: Recipe
    parallel: Parallel
    data: PreparedData
    reporter: Reporter
    _kernels: dict[Sizes, set[str]] = field(default_factory=dict, init=False)

    @property
    def adapter(self) -> Adapter:
        """What is trained: the recipe's adapter, or all weights."""
        return self.recipe.adapter or AllWeights(AllWeights.Options())

    @property
    def adapter_label(self) -> str:
        """The recipe's adapter with its plugin; "" where all weights are trained."""
        return "" if self.recipe.adapter is None else self.recipe.plugins.label(self.recipe.adapter)

    @property
    def precision(self) -> Precision:
        """What the scorers compute in."""
        return compute_precision(self.recipe.training.precision, self.parallel.device.type)

    @property
    def bf16(self) -> bool:
        """Whether the scorers run under bfloat16 autocast."""
        return self.precision == "bf16"

    def load_policy(self, adapter: Adapter) -> Loaded:
        """See :func:`load_policy`."""
        return load_policy(self.recipe, adapter, self.precision, self.parallel, self.reporter)

    def load_reference(self) -> Loaded:
        """Load the model of ``reference.of``, to be sharded where the run does that. Collective."""
        recipe, quantizer = self.recipe, self.recipe.reference.quantizer

        def prepare(model: PreTrainedModel) -> tuple[PreTrainedModel, UpcastWeights]:
            if quantizer is not None:
                quantizer.prepare(model)  # which also refuses weights that were not quantized
            upcast = UpcastWeights(model, self.precision, self.parallel.device.type)
            return model.requires_grad_(False), upcast

        return load(
            recipe.model,
            reference_request(recipe, self.parallel.device),
            prepare,
            self.parallel,
            self.reporter,
            reads_numbers=False,
            what="the reference",
        )

    def shard(self, loaded: Loaded) -> None:
        """Shard the weights of a model over the processes where the run does, in place. Collective.

        Raises:
            RunError: the model does not declare its decoder layers.
        """
        parallel, model = self.parallel, loaded.model
        if not parallel.shards_weights:
            return
        layers = decoder_layers(causal_lm(model))
        if not layers:
            raise RunError(
                f"the weights of {type(causal_lm(model)).__name__} cannot be sharded layer by layer: it does not "
                'declare its decoder layers.\nSet parallel.shard = "none".'
            )
        with self.reporter.phase("sharding the weights", None):
            parallel.shard(
                model, layers, bf16=self.bf16, in_place=self.recipe.trains_in_place, fill=loaded.fill
            )
            release_memory()

    def scorer(self, model: PreTrainedModel, what: str) -> Scorer:
        """Return the packed scorer if ``model`` is proven to take it, otherwise the padded one, with a warning."""
        if warning := check_data(model, what, self.data, self.recipe.data.max_length):
            self.reporter.warn(warning)
        device = self.parallel.device
        if not self.recipe.training.compile:  # a compiler fuses by itself
            use_memory_efficient_layers(model)
            if device.type == "cuda":  # a CPU's heap keeps most of what is freed between other tensors
                cast_again(model)
        share_gradient(causal_lm(model))
        kernels = self._choose_kernels(model, what)
        use_kernels(model, kernels)
        with self.reporter.phase(f"testing packed rows on {what}", None):
            try:
                with self.parallel.gathered(model):
                    chosen = choose_scorer(
                        model,
                        self._sample().to(device),
                        packing=self.recipe.training.packing,
                        bf16=self.bf16,
                        extremes=self._extremes().to(device),
                    )
            except NotFiniteLogits:
                self._refuse_weights(model)
                raise
        context = self.parallel.context
        if context is not None and not chosen.scorer.packs:
            raise RunError(
                f"parallel.context = {context.size} divides packed rows over processes, and {what} cannot be packed: "
                f"{chosen.reason}.\nLeave parallel.context out: its pairs are then padded, and each is computed by one "
                "process."
            )
        if chosen.reason:
            self.reporter.warn(f"{what}: pairs are padded instead of packed: {chosen.reason}")
        chosen.scorer.tail_weight = self.recipe.loss.options.tail_weight
        chosen.scorer.fused_head = "head" in kernels
        chosen.scorer.computing = self.parallel.computing(model)
        return chosen.scorer

    def compile(self, scorer: Scorer) -> None:
        """Compile the layers of the policy, which is ``scorer``'s, and prove them. Collective.

        Raises:
            RunError: they cannot be compiled, or compute something else then.
        """
        with self.reporter.phase("testing compiled layers", None):
            compile_scorer(scorer, self._sample().to(self.parallel.device))

    def divide_rows(self, scorer: Scorer, what: str) -> None:
        """Have several processes compute each row of a packed scorer, where the recipe says so. Collective."""
        if (context := self.parallel.context) is not None:
            phase = self.reporter.phase(f"testing rows of {what} on {context.size} processes", None)
            with phase, self.parallel.gathered(scorer.policy):
                divide_rows(scorer, context, self._sample().to(self.parallel.device), self.parallel)

    @property
    def kernels(self) -> str:
        """The Triton kernels that were chosen, as a run is described; "" without any."""
        names = set[str]().union(*self._kernels.values())
        labels = [label for name, label in LABELS.items() if name in names]
        return f"Triton kernels: {', '.join(labels)}" if labels else ""

    def _choose_kernels(self, model: PreTrainedModel, what: str) -> set[str]:
        """Return the Triton kernels for a model, the same on every process. Collective."""
        device = self.parallel.device
        if device.type != "cuda":
            return set()
        names = candidates(model)
        tokens = self.recipe.training.tokens_per_microbatch
        sizes = Sizes.of(model, ROW_TOKENS if tokens == "auto" else tokens, self.bf16)
        if sizes not in self._kernels:
            with self.reporter.phase(f"comparing kernels for {what}", None):
                chosen = choose_kernels(names, sizes, device, self.reporter.note)
            torch.cuda.empty_cache()
            self._kernels[sizes] = set.intersection(*self.parallel.gather_objects(chosen))
        return self._kernels[sizes] & names

    def router_loss(self, scorer: Scorer) -> RouterLoss | None:
        """Return the load-balancing loss of the policy, which is ``scorer``'s; None where it is trained without.

        Raises:
            RunError: the recipe sets a weight, and the model has no such loss.
        """
        wanted = self.recipe.training.router_loss_weight
        routing = Routing.of(scorer.policy, wanted)
        if routing is None:
            return None
        loss, name = RouterLoss(routing, scorer), type(causal_lm(scorer.policy)).__name__
        with self.parallel.gathered(scorer.policy):
            fault = loss.fault(self._sample().to(self.parallel.device))
        if not fault:
            return loss
        if wanted != "auto":
            raise RunError(
                f"training.router_loss_weight = {wanted:g}, but {name} cannot be trained with a router loss: {fault}.\n"
                "Leave the key out."
            )
        self.reporter.warn(f"{name} is trained without a router loss: {fault}")
        return None

    def _refuse_weights(self, model: PreTrainedModel) -> None:
        """Raise a WrongReturnError where weights of a model are not finite, which its loader or adapter made."""
        wrong = {
            name: weight.requires_grad
            for name, weight in model.named_parameters()
            if not local_shard(weight).isfinite().all()
        }
        if (
            self.parallel.shards_weights
        ):  # all of them are here; elsewhere a process may have weights of its own
            for others in self.parallel.gather_objects(wrong):
                wrong |= others
        if not wrong:
            return
        adapter = self.recipe.adapter if all(wrong.values()) else None
        method, part = ("attach", adapter) if adapter is not None else ("load_model", self.recipe.model)
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise WrongReturnError(
            f"{method} returned a model with weights that are not finite: {next(iter(wrong))}{more}", part
        )

    def tokens_without_gradients(self, tokens: int) -> int:
        """Return the tokens of a micro-batch that keeps no activations; what the recipe sets holds there, too."""
        return 2 * tokens if self.recipe.training.tokens_per_microbatch == "auto" else tokens

    def _sample(self) -> PackedPairs:
        """Return a few of the shortest pairs, for the probe; of long ones the beginnings.

        An ordinary forward pass has the logits of every token.
        """
        by_length = np.argsort(self.data.train.lengths, kind="stable")
        total = np.cumsum(self.data.train.lengths[by_length])
        count = max(1, min(4, int(np.searchsorted(total, PROBE_TOKENS))))
        train = self.data.train
        pairs = [shorten(train[int(pair)], PROBE_TOKENS) for pair in by_length[:count]]
        return pack(TokenizedPairs.of(pairs, train.columns), range(count))

    def _extremes(self) -> PackedPairs:
        """Return the shortest pair, and the one with the longest sequence of all that are scored."""
        train = self.data.train
        pairs = [train[int(train.lengths.argmin())], self.data.longest()]
        return pack(TokenizedPairs.of(pairs, train.columns), [0, 1])


def load_policy(
    selection: Selection, adapter: Adapter, precision: Precision, parallel: Parallel, reporter: Reporter
) -> Loaded:
    """Load the policy, quantized if the recipe says so, with its adapter attached. Collective."""

    def prepare(policy: PreTrainedModel) -> tuple[PreTrainedModel, UpcastWeights]:
        return _prepare_policy(policy, selection, adapter, precision, parallel.device, reporter)

    return load(
        selection.model,
        policy_request(selection, parallel.device),
        prepare,
        parallel,
        reporter,
        reads_numbers=not selection.trains_in_place,
        what="the model",
    )


def _prepare_policy(
    policy: PreTrainedModel,
    selection: Selection,
    adapter: Adapter,
    precision: Precision,
    device: torch.device,
    reporter: Reporter,
) -> tuple[PreTrainedModel, UpcastWeights]:
    """Return a loaded policy with its adapter attached, and what of it is held in more bits than it was loaded in."""
    if selection.quantizer is not None:
        selection.quantizer.prepare(policy)
    upcast = UpcastWeights(policy, precision, device.type)
    policy = upcast.attach(adapter, policy)
    if not any(weight.requires_grad for weight in policy.parameters()):
        raise RunError(
            f'[adapter] use = "{adapter.name}" leaves nothing to train: no parameter requires gradients.'
        )
    if multiplies_bfloat16(device.type) and upcast.float16_bytes:
        reporter.note(
            f"float16 weights are held in float32 ({megabytes(upcast.float16_bytes / 2**20)}), because small "
            "gradients and optimizer moments become 0 in float16; what is saved of them is float16 again"
        )
    if selection.adapter is None and any(weight.dtype != torch.float32 for weight in policy.parameters()):
        reporter.warn(
            "all weights are trained in bfloat16, where an update smaller than about 1/256 of a weight is lost.\n"
            'model.dtype = "float32" with training.precision = "bf16" keeps them, at twice the memory.'
        )
    return policy, upcast


def check_data(model: PreTrainedModel, what: str, data: PreparedData, max_length: int) -> str:
    """Refuse tokens and positions beyond a model's tables: on a GPU they fail with an assertion that names neither.

    ``what`` is what the model is in the run. Returns a warning, or "" (see :func:`.check_positions`).
    """
    rows = causal_lm(model).get_input_embeddings().weight.shape[0]
    largest = max(pairs.largest_token for pairs in (data.train, data.evaluation) if pairs)
    if largest >= rows:
        raise RunError(
            f"the data has token {largest}, but {what} has an embedding of {rows} tokens: the data was tokenized with "
            "another model's tokenizer, or with tokens that were added to it.\nUse a model and a tokenizer that belong "
            "together: give added tokens rows in the embedding (resize_token_embeddings), and train those first."
        )
    return check_positions(causal_lm(model), what, data, max_length)


def check_reference(recipe: Recipe, data: PreparedData) -> None:
    """Raise what the run would raise while it loads a reference of its own for this data; no weights are loaded."""
    if ReferencePlan.of(recipe).model != "separate model":
        return
    model = recipe.model.blueprint(reference_request(recipe, "meta"))
    if model is not None:
        check_data(model, "the reference", data, recipe.data.max_length)


def policy_request(recipe: Selection, device: torch.device | str) -> LoadRequest:
    """Return what the loader is asked for to get the policy of a recipe, or its blueprint (device "meta")."""
    quantizer = recipe.quantizer
    return LoadRequest(
        quantization=None if quantizer is None else quantizer.loading_config(),
        quantizer=quantizer,
        keep_adapter=not recipe.trains_in_place,
        device=str(device),
    )


def reference_request(recipe: Recipe, device: torch.device | str) -> LoadRequest:
    """Return what the loader is asked for to get the model of ``reference.of``, or its blueprint (device "meta")."""
    quantizer = recipe.reference.quantizer
    return LoadRequest(
        source=recipe.reference.of,
        quantization=None if quantizer is None else quantizer.loading_config(),
        quantizer=quantizer,
        device=str(device),
    )


def batch_plan(recipe: Recipe, mixture: Mixture, costs: Costs, tokens: int, ranks: int = 1) -> BatchPlan:
    """Return the steps of a run whose micro-batches take at most so many tokens."""
    training = recipe.training
    return BatchPlan(
        mixture=mixture,
        costs=costs,
        seed=recipe.seed,
        pairs_per_step=training.pairs_per_step,
        tokens_per_microbatch=tokens,
        epochs=training.epochs,
        max_steps=training.steps,
        ranks=ranks,
        shuffle=recipe.data.shuffle,
    )
