"""How large a run's micro-batches are and how many layers are checkpointed: measured on this model and device.

What was chosen is kept in checkpoints and taken over from them, so that a resumed run cuts its steps as the
uninterrupted one did, whatever memory happens to be free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dpotrain.data.batches.packing import pack
from dpotrain.engine.layers.checkpointing import can_checkpoint, checkpoint_layers, wanted_layers
from dpotrain.engine.memory.activations import Activations, estimate, measure
from dpotrain.engine.memory.arithmetic import Arithmetic
from dpotrain.engine.memory.budget import SHARE, Fit, fit
from dpotrain.engine.memory.device_memory import free_memory, resident_memory
from dpotrain.engine.memory.model_size import ModelFacts, count, gradient_bytes, head_bytes
from dpotrain.engine.scoring.precision import computed_in
from dpotrain.engine.training.metrics import peak_memory_mb
from dpotrain.run.forecast import Forecast, Workload, sustained_rate

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from dpotrain.data.batches.plan import BatchPlan, Costs
    from dpotrain.data.tokens.tokenized import TokenizedPairs
    from dpotrain.engine.parallel.protocol import Parallel
    from dpotrain.engine.scoring.scorer import Scorer
    from dpotrain.recipe.recipe import Recipe

#: Tokens that activations are measured on, and twice as many: a line needs no more. On CUDA the peak of a backward pass
#: is looked at as well, and below some hundred tokens the tiles of the language-model head grow with them, too.
MEASURED_TOKENS = {"cpu": 64, "cuda": 1024}
#: Steps whose micro-batches a prediction looks at.
STEPS_LOOKED_AT = 32


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a checkpoint keeps of the choice."""

    wanted: int | str
    """``training.tokens_per_microbatch``: a resumed run that asks for something else gets that."""
    tokens: int
    checkpointed: int
    checkpointing: bool | int | str
    """``training.activation_checkpointing``, likewise."""

    def as_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Sizing:
    """What was chosen, and what it was chosen from."""

    fit: Fit
    facts: ModelFacts
    activations: Activations
    to_come: int
    """Bytes of gradients, optimizer, head and a second copy as the reference, which are not there yet."""
    held: int
    """Bytes that are in use already: of the CUDA device, or resident."""
    arithmetic: Arithmetic

    def predicted_peak_mb(self, plan: BatchPlan, checkpoint: int) -> float:
        """Return the peak memory of the run, in the sense of :func:`peak_memory_mb`.

        ``checkpoint`` is what a copy of one takes of the same memory, in bytes.
        """
        largest = max(max(step) for step in cuts_of(plan))
        training = self.held + self.to_come + self.activations.peak(largest, self.fit.checkpointed)
        return max((training + checkpoint) / 2**20, peak_memory_mb())

    def chosen(self, recipe: Recipe, tokens: int) -> Chosen:
        """Return what a checkpoint keeps, where steps are now cut by ``tokens``."""
        training = recipe.training
        return Chosen(
            training.tokens_per_microbatch, tokens, self.fit.checkpointed, training.activation_checkpointing
        )


def size_up(
    recipe: Recipe,
    parallel: Parallel,
    scorer: Scorer,
    pairs: TokenizedPairs,
    costs: Costs,
    before: Mapping[str, Any] | None,
    second_copy: bool,
) -> Sizing:
    """Measure the policy, choose, and checkpoint the layers that were chosen.

    Args:
        recipe: what is wanted.
        parallel: the processes, which all get the same.
        scorer: the policy's, on its device, not yet wrapped.
        pairs: what is trained on.
        costs: what they cost.
        before: :meth:`Chosen.as_json` of the checkpoint that the run goes on from.
        second_copy: whether the policy's weights are going to be loaded a second time, as the reference.
    """
    training, device = recipe.training, parallel.device
    activations = _activations(scorer, pairs, costs)
    facts = count(scorer.policy)
    to_come = after_loading(facts, recipe, device.type) + (facts.bytes if second_copy else 0)
    free = free_memory(device) // _sharing(parallel) - to_come
    fixed = fixed_layers(scorer.policy, training.activation_checkpointing, activations)
    wanted = training.tokens_per_microbatch
    chosen = fit(
        activations,
        SHARE * free,
        longest=longest_pair(costs),
        device=device.type,
        tokens=None if wanted == "auto" else wanted,
        checkpointed=fixed,
    )
    if before is not None:
        chosen = taken_over(chosen, Chosen(**before), recipe, activations, free)
    chosen = _the_same_everywhere(parallel, chosen)
    checkpoint_layers(scorer.policy, chosen.checkpointed)
    held = torch.cuda.memory_allocated(device) if device.type == "cuda" else resident_memory()
    arithmetic = Arithmetic.of(scorer.policy, facts)
    return Sizing(chosen, facts, activations, to_come, held or facts.bytes, arithmetic)


def after_loading(facts: ModelFacts, recipe: Recipe, device: str) -> int:
    """Return the bytes that training adds to the loaded model, but for activations."""
    return (
        gradient_bytes(facts.trained)
        + recipe.optimizer.state_bytes(facts.trained)
        + head_bytes(facts, device, computed_in(recipe.training.precision, device) == "bf16")
    )


def checkpoint_copy(facts: ModelFacts, recipe: Recipe, steps: int, device: str) -> int:
    """Return the bytes of the device's memory that a copy takes from which a checkpoint is written.

    It is in host memory, and taken for checkpoints in between, while training goes on.
    """
    every = recipe.checkpoints.every
    if device != "cpu" or every is None or every >= steps:
        return 0
    return sum(tensor.bytes for tensor in facts.trained) + recipe.optimizer.state_bytes(facts.trained)


def fixed_layers(policy: PreTrainedModel, wanted: bool | int | str, activations: Activations) -> int | None:
    """Return the number of layers that the recipe sets, or None where it is ours to choose."""
    if not isinstance(wanted, str):
        return wanted_layers(policy, wanted)
    return None if activations.layers and can_checkpoint(policy) else 0


def taken_over(chosen: Fit, before: Chosen, recipe: Recipe, activations: Activations, free: float) -> Fit:
    """Return what the checkpoint says, where the recipe wants the same as then and it still fits."""
    training = recipe.training
    now = (training.tokens_per_microbatch, training.activation_checkpointing)
    if (before.wanted, before.checkpointing) != now:
        return chosen
    layers = len(activations.layers)
    automatic = "auto" in now
    if automatic and activations.peak(before.tokens, min(before.checkpointed, layers)) > free:
        return chosen
    return replace(chosen, tokens=before.tokens, checkpointed=before.checkpointed, limit="checkpoint")


def longest_pair(costs: Costs) -> int:
    """Return what the most expensive pair costs in a micro-batch of its own."""
    return int(2 * costs.longest.max() if costs.padded else costs.lengths.max())


def cuts_of(plan: BatchPlan) -> list[list[int]]:
    """Return what each micro-batch of the first steps costs, step by step, those of all ranks together."""
    steps = replace(plan, max_steps=min(plan.total_steps, STEPS_LOOKED_AT)).steps()
    return [[plan.costs.of(pairs) for rank in step.microbatches for pairs in rank] for step in steps]


def measured_pairs(pairs: TokenizedPairs, device: str) -> tuple[list[int], list[int]]:
    """Return two micro-batches to measure activations on: a pair again and again, and the same twice as often."""
    pair = int(np.argmin(np.abs(pairs.lengths - MEASURED_TOKENS["cpu"])))
    times = max(1, MEASURED_TOKENS[device] // int(pairs.lengths[pair]))
    return [pair] * times, [pair] * (2 * times)


def forecast(
    sizing: Sizing, recipe: Recipe, plan: BatchPlan, pairs: TokenizedPairs, device: torch.device, live: bool
) -> Forecast:
    """Foretell peak memory and tokens a second; ``live`` is whether the reference is computed in every step."""
    work = Workload.of(pairs, plan.costs.padded)
    again = sizing.fit.checkpointed / max(1, sizing.fit.layers)
    flops = work.flops(sizing.arithmetic, int(live), again)
    rate = sustained_rate(device, computed_in(recipe.training.precision, device.type))
    # Tokens are counted once in every record, however often padding computes them.
    tokens = float(pairs.lengths.sum())
    copy = checkpoint_copy(sizing.facts, recipe, plan.total_steps, device.type)
    return Forecast(sizing.predicted_peak_mb(plan, copy), plan.ranks * tokens * rate / flops)


def _activations(scorer: Scorer, pairs: TokenizedPairs, costs: Costs) -> Activations:
    device = next(scorer.parameters()).device
    some, more = measured_pairs(pairs, device.type)
    try:
        one, two = (pack(pairs, chosen).to(device) for chosen in (some, more))
        return measure(scorer, one, two, (costs.of(some), costs.of(more)))
    except torch.OutOfMemoryError:
        # Not even so little fits unless layers are checkpointed, which cannot be told apart any more.
        return estimate(scorer.policy, scorer.bf16)


def _the_same_everywhere(parallel: Parallel, chosen: Fit) -> Fit:
    """Return what every process has room for."""
    all_chosen = parallel.gather_objects((chosen.tokens, chosen.checkpointed))
    tokens, layers = min(tokens for tokens, _ in all_chosen), max(layers for _, layers in all_chosen)
    return replace(chosen, tokens=tokens, checkpointed=layers)


def _sharing(parallel: Parallel) -> int:
    """Return how many processes share the memory: on a CPU, all of this machine."""
    return parallel.local_size if parallel.device.type == "cpu" else 1
