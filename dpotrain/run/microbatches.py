"""Micro-batches and checkpointed layers of a run: chosen from measurements, or as in the checkpoint.

A resumed run forms its micro-batches as the uninterrupted one did, whatever memory happens to be free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from dpotrain.data.batches.packing import pack
from dpotrain.data.batches.plan import BatchPlan, Costs
from dpotrain.data.prepare import PreparedData
from dpotrain.data.tokens.tokenized import TokenizedPairs
from dpotrain.engine.layers.checkpointing import checkpoint_layers
from dpotrain.engine.memory.activations import Activations, estimate, measure
from dpotrain.engine.memory.budget import Fit
from dpotrain.engine.memory.device_memory import free_memory, memory_in_use, release_memory
from dpotrain.engine.memory.model_size import count, trained_bytes
from dpotrain.engine.memory.planner import MemoryPlan, pairs_to_record, plan_memory
from dpotrain.engine.parallel.protocol import Parallel
from dpotrain.engine.reference.plan import ReferencePlan
from dpotrain.engine.scoring.scorer import Scorer
from dpotrain.engine.training.metrics import peak_memory_mb
from dpotrain.recipe.recipe import Recipe


@dataclass(frozen=True, slots=True)
class MicrobatchSize:
    """What a checkpoint keeps of the choice."""

    wanted: int | str
    """``training.tokens_per_microbatch``; where a resumed run sets another value, that one is used."""
    tokens: int
    checkpointed: int
    checkpointing: bool | int | str
    """``training.activation_checkpointing``, likewise."""

    @classmethod
    def of(cls, recipe: Recipe, tokens: int, checkpointed: int) -> MicrobatchSize:
        """Describe micro-batches of at most so many tokens, with so many checkpointed layers."""
        training = recipe.training
        return cls(training.tokens_per_microbatch, tokens, checkpointed, training.activation_checkpointing)


def fit_to_memory(
    recipe: Recipe,
    parallel: Parallel,
    scorer: Scorer,
    data: PreparedData,
    costs: Costs,
    reference: ReferencePlan,
    before: Mapping[str, Any] | None,
) -> MemoryPlan:
    """Measure the policy, plan its memory, and checkpoint the planned number of layers. Collective.

    ``scorer`` is the policy's, on its device, not yet wrapped; a separate reference model is in memory already.
    ``before`` is the :class:`MicrobatchSize` of the checkpoint that the run is resumed from, as plain data.
    """
    policy, device = scorer.policy, parallel.device
    activations = _measured(scorer, data.train, costs)
    # What the measuring freed is not in use, though the allocator may still hold it.
    release_memory()
    size = count(policy)
    # Processes of one machine share its host memory.
    free = free_memory(device) // (parallel.local_size if device.type == "cpu" else 1)
    in_use = memory_in_use(device) or size.bytes
    memory = plan_memory(
        recipe,
        policy,
        size,
        activations,
        costs,
        pairs=data.mixture.pairs,
        device=device.type,
        held={
            "in use": in_use,
            "second copy": trained_bytes(size.trained) if reference.model == "second copy" else 0,
        },
        available=free + in_use,
    )
    chosen = memory.fit
    if before is not None:
        chosen = _as_before(memory, MicrobatchSize(**before), recipe)
    # All processes get what fits on each.
    all_tokens, all_layers = zip(*parallel.gather_objects((chosen.tokens, chosen.checkpointed)), strict=True)
    memory = replace(memory, fit=replace(chosen, tokens=min(all_tokens), checkpointed=max(all_layers)))
    checkpoint_layers(policy, memory.fit.checkpointed)
    return memory


def predicted_peak_mb(memory: MemoryPlan, batches: BatchPlan) -> float:
    """Return the peak memory of the run, in the sense of :func:`.peak_memory_mb`; never less than so far."""
    return max(sum(memory.parts(batches).values()) / 2**20, peak_memory_mb())


def _measured(scorer: Scorer, pairs: TokenizedPairs, costs: Costs) -> Activations:
    device = next(scorer.parameters()).device
    some, more = pairs_to_record(pairs, device.type)
    try:
        one, two = (pack(pairs, chosen).to(device) for chosen in (some, more))
        return measure(scorer, one, two, (costs.of(some), costs.of(more)))
    except torch.OutOfMemoryError:
        # Even these few tokens need checkpointed layers, whose saving can then only be estimated.
        return estimate(scorer.policy, scorer.bf16)


def _as_before(memory: MemoryPlan, before: MicrobatchSize, recipe: Recipe) -> Fit:
    """Return what the checkpoint has, if the recipe wants the same as then and it still fits."""
    training, activations = recipe.training, memory.activations
    now = (training.tokens_per_microbatch, training.activation_checkpointing)
    if (before.wanted, before.checkpointing) != now:
        return memory.fit
    layers = min(before.checkpointed, len(activations.layers))
    if "auto" in now and activations.peak(before.tokens, layers) > memory.room:
        return memory.fit
    return replace(memory.fit, tokens=before.tokens, checkpointed=before.checkpointed, limit="checkpoint")
