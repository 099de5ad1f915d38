"""``dpotrain plan``: memory and time of a run, without loading its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from dpotrain.core.errors import RunError
from dpotrain.data.batches.packing import pack
from dpotrain.data.batches.plan import Costs
from dpotrain.data.prepare import PreparedData
from dpotrain.engine.layers.memory_efficient import use_memory_efficient_layers
from dpotrain.engine.memory.device_memory import free_memory, resident_memory
from dpotrain.engine.memory.model_size import ModelSize, count
from dpotrain.engine.memory.planner import microbatch_tokens, pairs_to_record, plan_memory
from dpotrain.engine.memory.shapes import activations_from_shapes
from dpotrain.engine.reference.plan import ReferencePlan
from dpotrain.engine.scoring.precision import UpcastWeights, compute_precision
from dpotrain.engine.scoring.rope_scaling import length_rules
from dpotrain.engine.training.all_weights import AllWeights
from dpotrain.plugin.api import LoadRequest
from dpotrain.recipe.recipe import Recipe
from dpotrain.run.building.engine_builder import batch_plan, check_data, check_reference, policy_request
from dpotrain.run.folder.run_folder import RunFolder
from dpotrain.run.planning.remedies import Remedy, find_remedies
from dpotrain.run.speed import ModelWork, Workload, sustained_rate

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: What CUDA's context and libraries take on a device, which no allocator counts.
CUDA_CONTEXT = 600 * 2**20


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would take; sizes in bytes."""

    device: str
    memory: int
    """What the device has for the run."""
    parts: Mapping[str, int]
    """What the run needs at its peak, by part."""
    fits: bool
    packed: bool
    tokens_per_microbatch: int
    limit: str
    """What keeps micro-batches from being larger: "memory", "speed" (more would be no faster) or "recipe"."""
    longest_pair: int
    """Tokens of the longest pair, which is never split."""
    checkpointed_layers: int
    layers: int
    parameters: int
    trained_parameters: int
    pairs: int
    steps: int
    pairs_per_step: int
    microbatches_per_step: float
    tokens_per_second: float | None
    """None for a device that is not in this machine."""
    seconds: float | None
    """Training, and the reference's pass before it; without loading, evaluation and checkpoints."""
    remedies: tuple[Remedy, ...]
    """What to change where it does not fit, in the order in which to try."""
    finished_run: Mapping[str, float] | None
    """``plan`` in the summary.json of the run that finished in the recipe's folder."""

    @property
    def needed(self) -> int:
        """Bytes at the peak."""
        return sum(self.parts.values())

    def as_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {**asdict(self), "needed": self.needed}


def make_plan(recipe: Recipe, data: PreparedData, memory: int | None = None) -> Plan:
    """Plan a recipe for this machine's device, or for a GPU with so many bytes of ``memory``.

    Raises:
        RunError: the loader cannot describe its model, or the adapter does not fit the model.
    """
    device = torch.device("cuda" if memory is not None or torch.cuda.is_available() else "cpu")
    training, reference = recipe.training, ReferencePlan.of(recipe)
    bf16 = compute_precision(training.precision, device.type) == "bf16"
    policy, bits = _blueprint(recipe, device, bf16)
    check_data(policy, "the policy", data, recipe.data.max_length)
    check_reference(recipe, data)
    size = count(policy, bits)
    work = ModelWork.of(policy, size)
    # Few tokens are enough on any device: no backward pass is measured.
    one, two = (pack(data.train, pairs) for pairs in pairs_to_record(data.train, "cpu"))
    apart = length_rules(policy, data.longest().longest())
    activations, packs = activations_from_shapes(policy, one, two, bf16)
    packs = packs and training.packing != "off" and not apart
    costs = Costs.of_data(data.train, padded=not packs)

    if memory is not None:
        name, available, process = "a GPU of that size", memory, CUDA_CONTEXT
    elif device.type == "cuda":
        name, available, process = torch.cuda.get_device_name(device), free_memory(device), 0
    else:
        name, process = "this machine's CPU", resident_memory() or 0
        available = free_memory(device) + process
    held = {
        "process": process,
        "weights": size.bytes,
        "reference model": _reference_bytes(recipe, reference, size, device),
    }
    planned = plan_memory(
        recipe, policy, size, activations, costs, device=device.type, held=held, available=available
    )
    batches = batch_plan(recipe, costs, planned.fit.tokens)
    microbatches = microbatch_tokens(batches)
    parts = planned.parts(batches)
    speed = seconds = None
    if memory is None:
        load = Workload.of(data.train, costs.padded)
        rate = sustained_rate(device, compute_precision(training.precision, device.type))
        recomputed = planned.fit.checkpointed / max(1, planned.fit.layers)
        passes = reference.passes_per_step
        epoch = work.training(load, reference_passes=passes, recomputed=recomputed) / rate
        before_training = work.forward(load) / rate if reference.pass_before_training else 0.0
        speed = float(data.train.lengths.sum()) / epoch
        seconds = batches.epochs_done(batches.total_steps) * epoch + before_training
    before = RunFolder(recipe.run.output_dir).summary_of_finished() or {}
    return Plan(
        device=name,
        memory=available,
        parts=parts,
        fits=sum(parts.values()) <= available,
        packed=packs,
        tokens_per_microbatch=planned.fit.tokens,
        limit=planned.fit.limit,
        longest_pair=costs.longest_pair,
        checkpointed_layers=planned.fit.checkpointed,
        layers=planned.fit.layers,
        parameters=size.parameters,
        trained_parameters=size.trained_parameters,
        pairs=len(data.train),
        steps=batches.total_steps,
        pairs_per_step=training.pairs_per_step,
        microbatches_per_step=sum(map(len, microbatches)) / len(microbatches),
        tokens_per_second=speed,
        seconds=seconds,
        remedies=tuple(find_remedies(recipe, size, planned, batches)),
        finished_run=before.get("plan") or None,
    )


def _blueprint(recipe: Recipe, device: torch.device, bf16: bool) -> tuple[PreTrainedModel, dict[int, float]]:
    """Return the policy with its adapter on the meta device, and the bits of the weights to be quantized."""
    model = recipe.model.blueprint(policy_request(recipe, "meta"))
    if model is None:
        raise RunError(
            f'the loader "{recipe.model.name}" cannot describe its model without loading it, so its memory cannot be '
            "planned.\ndpotrain run measures it before the first step and shows it."
        )
    upcast = UpcastWeights(model, compute_precision(recipe.training.precision, device.type), device.type)
    bits: dict[int, float] = {}
    if recipe.quantizer is not None:
        named = recipe.quantizer.bits(model)
        if named is None:
            raise RunError(
                f'the quantizer "{recipe.quantizer.name}" does not report the bits of its weights, so their memory '
                "cannot be planned.\nPlan without it: --set quantizer=false"
            )
        model.requires_grad_(False)
        for name, width in named.items():
            weight = model.get_parameter(name)
            bits[id(weight)] = width
            # Products use the quantized weight itself; no cast copy is kept.
            weight.data = weight.data.to(torch.bfloat16 if bf16 else torch.float32)
    adapter = recipe.adapter or AllWeights(AllWeights.Options())
    with torch.device("meta"):
        policy = adapter.attach(model)
    upcast.upcast_trained(policy)
    if not recipe.training.compile:
        use_memory_efficient_layers(policy)
    return policy, bits


def _reference_bytes(
    recipe: Recipe, reference: ReferencePlan, policy: ModelSize, device: torch.device
) -> int:
    """Return what a second model takes that stays beside the policy; 0 where it cannot be known."""
    if not reference.model_beside_policy:
        return 0
    if reference.model == "second copy":
        return policy.bytes
    model = recipe.model.blueprint(LoadRequest(source=recipe.reference.of, device="meta"))
    if model is None:
        return 0
    UpcastWeights(model, compute_precision(recipe.training.precision, device.type), device.type)
    return count(model).bytes
