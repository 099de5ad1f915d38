"""A recipe's policy, counted from its configuration: no weights are loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from dpotrain.core.errors import RunError
from dpotrain.data.batches.packing import pack
from dpotrain.data.prepare import PreparedData
from dpotrain.engine.layers.cast_again import cast_again
from dpotrain.engine.layers.memory_efficient import use_memory_efficient_layers
from dpotrain.engine.memory.activations import Activations
from dpotrain.engine.memory.exchange import AttentionSize, Beside
from dpotrain.engine.memory.layout import Layout
from dpotrain.engine.memory.model_size import ModelSize, count, trained_bytes
from dpotrain.engine.memory.planner import pairs_to_record
from dpotrain.engine.memory.shapes import activations_from_shapes
from dpotrain.engine.memory.shares import Share, matrices_of
from dpotrain.engine.reference.plan import ReferencePlan
from dpotrain.engine.scoring.precision import Precision, UpcastWeights, compute_precision
from dpotrain.engine.scoring.rope_scaling import length_rules
from dpotrain.engine.training.all_weights import AllWeights
from dpotrain.engine.training.weight_groups import assign
from dpotrain.plugin.api import Quantizer
from dpotrain.plugin.api.returns import WrongReturnError
from dpotrain.recipe.recipe import Recipe
from dpotrain.run.building.engine_builder import (
    check_data,
    check_reference,
    policy_request,
    reference_request,
)
from dpotrain.run.speed import ModelWork

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class NotDescribedError(RunError):
    """A loader or a quantizer cannot say what its model takes."""


@dataclass(frozen=True, slots=True)
class Description:
    """What a policy with its adapter takes, on a kind of device."""

    policy: PreTrainedModel
    """Without its weights."""
    share: Share
    """Of one device, which holds all of it."""
    work: ModelWork
    attention: AttentionSize
    activations: Activations
    packs: bool
    precision: Precision
    reference: Beside | None
    """The model of ``reference.of``, likewise, where it stays in memory during training."""
    second_copy: bool
    """Whether the reference is a second copy of the trained weights."""

    @property
    def size(self) -> ModelSize:
        """The whole model."""
        return self.share.size

    def share_in(self, layout: Layout) -> Share:
        """Return what a rank holds of the policy in a layout."""
        return replace(self.share, layout=layout)

    def reference_bytes(self, layout: Layout) -> tuple[int, int]:
        """Return what a rank holds for the reference: on its device, and in the host's memory."""
        if self.second_copy:
            policy = self.share_in(layout)
            return trained_bytes(policy.trained), trained_bytes(policy.trained_on_host)
        if self.reference is None:
            return 0, 0
        reference = self.reference.in_layout(layout).share
        # Its layers are gathered before those of the policy.
        more = max(0, reference.gathered - self.share_in(layout).gathered)
        return reference.weights + more, reference.weights_on_host


def describe(recipe: Recipe, data: PreparedData, device: str) -> Description:
    """Count a recipe's policy for a device, "cpu" or "cuda".

    Raises:
        RunError: the loader cannot describe its model, or the adapter does not fit the model.
    """
    training = recipe.training
    precision = compute_precision(training.precision, device)
    bf16 = precision == "bf16"
    policy, bits = _blueprint(recipe, device, bf16)
    check_data(policy, "the policy", data, recipe.data.max_length)
    check_reference(recipe, data)
    size = count(policy, bits)
    share = Share(size, matrices_of(policy, bits, in_place=recipe.trains_in_place), bf16=bf16)
    attention = AttentionSize.of(policy, bf16)
    assign(recipe.optimizer.options.groups, [weight.name for weight in size.trained])
    work = ModelWork.of(policy, size, in_place=recipe.trains_in_place)
    # Few tokens are enough on any device: no backward pass is measured.
    pair, *batches = pairs_to_record(data.train, "cpu")
    one, two = (pack(pair, batch) for batch in batches)
    apart = length_rules(policy, data.longest().longest())
    activations, packs = activations_from_shapes(policy, one, two, bf16)
    packs = packs and training.packing != "off" and not apart
    plan = ReferencePlan.of(recipe)
    beside = plan.model_beside_policy
    return Description(
        policy=policy,
        share=share,
        work=work,
        attention=attention,
        activations=activations,
        packs=packs,
        precision=precision,
        reference=_reference(recipe, device) if beside and plan.model == "separate model" else None,
        second_copy=beside and plan.model == "second copy",
    )


def _blueprint(recipe: Recipe, device: str, bf16: bool) -> tuple[PreTrainedModel, dict[int, float]]:
    """Return the policy with its adapter on the meta device, and the bits of the weights to be quantized."""
    model = recipe.model.blueprint(policy_request(recipe, "meta"))
    if model is None:
        raise NotDescribedError(
            f'the loader "{recipe.model.name}" cannot describe its model without loading it, so its memory cannot be '
            "planned.\ndpotrain run measures it before the first step and shows it."
        )
    upcast = UpcastWeights(model, compute_precision(recipe.training.precision, device), device)
    bits = {} if recipe.quantizer is None else _quantized(recipe.quantizer, model, bf16)
    adapter = recipe.adapter or AllWeights(AllWeights.Options())
    with torch.device("meta"):
        policy = upcast.attach(adapter, model)
    if not recipe.training.compile:
        use_memory_efficient_layers(policy)
        if device == "cuda":
            cast_again(policy)
    return policy, bits


def _quantized(quantizer: Quantizer, model: PreTrainedModel, bf16: bool) -> dict[int, float]:
    """Return the bits of the weights of a model on the meta device that are to be quantized, by their id.

    They are given the dtype that products compute in: these use the quantized weight itself, and keep no cast copy.
    """
    named = quantizer.bits(model)
    if named is None:
        raise NotDescribedError(
            f'the quantizer "{quantizer.name}" does not report the bits of its weights, so their memory '
            "cannot be planned.\nPlan without it: --set quantizer=false"
        )
    model.requires_grad_(False)
    weights = dict(model.named_parameters())
    if unknown := [name for name in named if name not in weights]:
        raise WrongReturnError(
            f'bits returned the bits of "{unknown[0]}"; it must name parameters of the model', quantizer
        )
    for name in named:
        weights[name].data = weights[name].data.to(torch.bfloat16 if bf16 else torch.float32)
    return {id(weights[name]): width for name, width in named.items()}


def _reference(recipe: Recipe, device: str) -> Beside | None:
    """Return what the model of ``reference.of`` takes; None where its loader cannot describe it."""
    model = recipe.model.blueprint(reference_request(recipe, "meta"))
    if model is None:
        return None
    precision, quantizer = compute_precision(recipe.training.precision, device), recipe.reference.quantizer
    UpcastWeights(model, precision, device)
    bf16 = precision == "bf16"
    bits = {} if quantizer is None else _quantized(quantizer, model, bf16)
    model.requires_grad_(False)
    share = Share(count(model, bits), matrices_of(model, bits, in_place=True), bf16=bf16)
    return Beside(share, AttentionSize.of(model, bf16))
