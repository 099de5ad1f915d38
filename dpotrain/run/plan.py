"""``dpotrain plan``: what a run would take, without its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from dpotrain.core.errors import RunError
from dpotrain.data.batches.packing import pack
from dpotrain.data.batches.plan import BatchPlan
from dpotrain.engine.layers.memory_efficient import make_lean
from dpotrain.engine.memory.activations import Activations
from dpotrain.engine.memory.arithmetic import Arithmetic
from dpotrain.engine.memory.budget import SHARE, Fit, fit
from dpotrain.engine.memory.device_memory import free_memory, resident_memory
from dpotrain.engine.memory.model_size import ModelFacts, count, gradient_bytes, head_bytes
from dpotrain.engine.memory.shapes import activations_from_shapes
from dpotrain.engine.scoring.precision import Widened, computed_in, multiplies_bfloat16
from dpotrain.engine.training.all_weights import AllWeights
from dpotrain.plugin.api import LoadRequest, Optimizer
from dpotrain.run.checkpoint.saver import LEAVES_FREE
from dpotrain.run.engine_builder import INITIAL, costs_of
from dpotrain.run.folder.run_folder import RunFolder
from dpotrain.run.forecast import Workload, sustained_rate
from dpotrain.run.sizing import checkpoint_copy, cuts_of, fixed_layers, longest_pair, measured_pairs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from dpotrain.data.prepare import PreparedData
    from dpotrain.recipe.recipe import Recipe

#: What CUDA's context and libraries take on a device, which no allocator counts.
CUDA_CONTEXT = 600 * 2**20
#: A LoRA of usual rank has about so many of a model's numbers.
_USUAL_ADAPTER = 0.01
#: Bits of a weight in 4-bit blocks, scales included (arXiv:2305.14314, section 3).
_FOUR_BITS = 4.127


@dataclass(frozen=True, slots=True)
class Remedy:
    """A change that makes a run smaller."""

    what: str
    saves: int
    """Bytes, with everything else as it is."""


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
    """Tokens of the longest pair, which is never cut."""
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
        RunError: the loader cannot say what its model looks like, or the adapter does not fit the model.
    """
    device = torch.device("cuda" if memory is not None or torch.cuda.is_available() else "cpu")
    training = recipe.training
    bf16 = computed_in(training.precision, device.type) == "bf16"
    policy, bits = _blueprint(recipe, device, bf16)
    facts = count(policy, bits)
    one, two = (pack(data.train, pairs) for pairs in measured_pairs(data.train, "cpu"))
    arithmetic = Arithmetic.of(policy, facts)
    fixed_by_recipe = training.activation_checkpointing
    activations, packs = activations_from_shapes(policy, one, two, bf16)
    packs = packs and training.packing != "off"
    fixed = fixed_layers(policy, fixed_by_recipe, activations)

    costs = costs_of(data.train, padded=not packs)
    process = resident_memory() or 0
    if memory is not None:
        available, process = memory, CUDA_CONTEXT
    elif device.type == "cuda":
        available, process = free_memory(device), 0
    else:
        available = free_memory(device) + process
    held = {
        "weights": facts.bytes,
        "reference model": _reference_bytes(recipe, facts, device),
        "gradients": gradient_bytes(facts.trained),
        "optimizer": recipe.optimizer.state_bytes(facts.trained),
        "head": head_bytes(facts, device.type, bf16),
        "process": process,
    }
    free = available - sum(held.values())
    longest = longest_pair(costs)
    wanted = training.tokens_per_microbatch
    chosen = fit(
        activations,
        SHARE * free,
        longest=longest,
        device=device.type,
        tokens=None if wanted == "auto" else wanted,
        checkpointed=fixed,
    )
    steps = BatchPlan(
        costs=costs,
        seed=recipe.seed,
        pairs_per_step=training.pairs_per_step,
        tokens_per_microbatch=chosen.tokens,
        epochs=training.epochs,
        max_steps=training.steps,
        shuffle=recipe.data.shuffle,
    )
    cuts = cuts_of(steps)
    peak = activations.peak(max(max(step) for step in cuts), chosen.checkpointed)
    parts = {name: size for name, size in held.items() if size}
    parts["activations"] = int(peak)
    fits = sum(parts.values()) <= available
    copy = checkpoint_copy(facts, recipe, steps.total_steps, device.type)
    # Without room for a copy, training waits until the checkpoint is written.
    if copy and sum(parts.values()) + (1 + LEAVES_FREE) * copy <= available:
        parts["copy of a checkpoint"] = copy
    speed = None if memory is not None else _speed(recipe, data, steps, chosen, arithmetic, device)
    before = RunFolder(recipe.run.output_dir).summary_of_finished() or {}
    return Plan(
        device=_name(device, memory),
        memory=available,
        parts=parts,
        fits=fits,
        packed=packs,
        tokens_per_microbatch=chosen.tokens,
        limit=chosen.limit,
        longest_pair=longest,
        checkpointed_layers=chosen.checkpointed,
        layers=chosen.layers,
        parameters=facts.parameters,
        trained_parameters=facts.trained_parameters,
        pairs=len(data.train),
        steps=steps.total_steps,
        pairs_per_step=training.pairs_per_step,
        microbatches_per_step=sum(len(step) for step in cuts) / len(cuts),
        tokens_per_second=None if speed is None else speed[0],
        seconds=None if speed is None else speed[1],
        remedies=tuple(_remedies(recipe, facts, activations, chosen, peak, longest)),
        finished_run=before.get("plan") or None,
    )


def _blueprint(recipe: Recipe, device: torch.device, bf16: bool) -> tuple[PreTrainedModel, dict[int, float]]:
    """Return the policy with its adapter on the meta device, and the bits of the weights to be quantized."""
    request = LoadRequest(keep_adapter=recipe.adapter is not None, device="meta")
    model = recipe.model.blueprint(request)
    if model is None:
        raise RunError(
            f'the loader "{recipe.model.name}" cannot say what its model looks like without loading it, so its '
            "memory cannot be planned.\ndpotrain run measures it before the first step, and shows it."
        )
    if not multiplies_bfloat16(device.type):
        Widened(model)
    bits: dict[int, float] = {}
    if recipe.quantizer is not None:
        named = recipe.quantizer.bits(model)
        if named is None:
            raise RunError(
                f'the quantizer "{recipe.quantizer.name}" does not say how many bits its weights take, so their '
                "memory cannot be planned.\nPlan without it: --set quantizer=false"
            )
        model.requires_grad_(False)
        for name, width in named.items():
            weight = model.get_parameter(name)
            bits[id(weight)] = width
            # Products are computed from the quantized weight itself; nothing is cast and kept.
            weight.data = weight.data.to(torch.bfloat16 if bf16 else torch.float32)
    adapter = recipe.adapter or AllWeights(AllWeights.Options())
    with torch.device("meta"):
        policy = adapter.attach(model)
    if not recipe.training.compile:
        make_lean(policy)
    return policy, bits


def _reference_bytes(recipe: Recipe, policy: ModelFacts, device: torch.device) -> int:
    """Return what a second model takes that stays beside the policy."""
    reference = recipe.reference
    if not recipe.loss.needs_reference or reference.when != "live":
        return 0
    if reference.of == INITIAL:
        return policy.bytes if recipe.adapter is None else 0
    model = recipe.model.blueprint(LoadRequest(source=reference.of, device="meta"))
    if model is None:
        return 0
    if not multiplies_bfloat16(device.type):
        Widened(model)
    return count(model).bytes


def _speed(
    recipe: Recipe,
    data: PreparedData,
    steps: BatchPlan,
    chosen: Fit,
    arithmetic: Arithmetic,
    device: torch.device,
) -> tuple[float, float]:
    """Return tokens a second in training, and seconds of the whole run."""
    rate = sustained_rate(device, computed_in(recipe.training.precision, device.type))
    work, epochs = Workload.of(data.train, steps.costs.padded), steps.epochs_done(steps.total_steps)
    needed = recipe.loss.needs_reference
    when, full = recipe.reference.when, recipe.adapter is None
    initial = recipe.reference.of == INITIAL
    live = needed and (when == "live" or (when == "auto" and initial and not full and steps.epochs == 1))
    again = chosen.checkpointed / max(1, chosen.layers)
    epoch = work.flops(arithmetic, int(live), again) / rate
    before = work.forward(arithmetic) / rate if needed and not live else 0.0
    return float(data.train.lengths.sum()) / epoch, epochs * epoch + before


def _remedies(
    recipe: Recipe, facts: ModelFacts, activations: Activations, chosen: Fit, peak: float, longest: int
) -> list[Remedy]:
    found = []
    k = chosen.checkpointed
    if recipe.training.tokens_per_microbatch != "auto":
        single = activations.peak(longest, k)
        found.append(Remedy('training.tokens_per_microbatch = "auto"', int(peak - single)))
    if k < chosen.layers:
        all_layers = peak - activations.peak(longest, chosen.layers)
        found.append(Remedy("training.activation_checkpointing = true", int(all_layers)))
    state = recipe.optimizer.state_bytes(facts.trained)
    if (smaller := _smaller_optimizer(recipe)) is not None:
        saved = state - smaller.state_bytes(facts.trained)
        found.append(Remedy(f'optimizer.use = "{smaller.name}"', saved))
    trained = gradient_bytes(facts.trained) + state
    if recipe.adapter is None:
        left = int(facts.parameters * _USUAL_ADAPTER) * 16
        found.append(Remedy("an [adapter] instead of all weights", trained - left))
    if recipe.quantizer is None:
        inside = facts.parameters - facts.trained_parameters * (recipe.adapter is not None) - 2 * facts.head
        each = facts.bytes / max(1, facts.parameters) - _FOUR_BITS / 8
        what = "[quantizer] of 4 bits" + ("" if recipe.adapter is not None else ", with an [adapter]")
        found.append(Remedy(what, int(max(0, inside) * each)))
    half = recipe.data.max_length // 2
    shorter = peak - activations.peak(min(longest, longest // 2), k)
    found.append(Remedy(f"data.max_length = {half}", int(shorter)))
    return [remedy for remedy in found if remedy.saves > 0]


def _smaller_optimizer(recipe: Recipe) -> Optimizer | None:
    """Return the optimizer that the recipe's own names as the smaller one, where it is there."""
    name = recipe.optimizer.smaller
    if name is None or name not in recipe.plugins.names(Optimizer):
        return None
    kind: type[Optimizer] = recipe.plugins.find(Optimizer, name)
    return kind(kind.Options(**recipe.optimizer.options.model_dump()))


def _name(device: torch.device, memory: int | None) -> str:
    if memory is not None:
        return "a GPU of that size"
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "this machine's CPU"
