"""Micro-batches and checkpointed layers of a run: chosen from measurements, or as in the checkpoint.

A resumed run forms its micro-batches as the uninterrupted one did, whatever memory happens to be free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from dpotrain.core.errors import RunError
from dpotrain.data.batches.packing import pack
from dpotrain.data.batches.plan import BatchPlan, Costs
from dpotrain.data.batches.row_slices import slice_length
from dpotrain.data.prepare import PreparedData
from dpotrain.data.tokens.tokenized import TokenizedPairs
from dpotrain.engine.layers.checkpointing import checkpoint_layers
from dpotrain.engine.layers.offloading import offload_inputs
from dpotrain.engine.layers.tiling import proven_modules, tile
from dpotrain.engine.memory.activations import Activations, estimate, measure
from dpotrain.engine.memory.budget import Fit
from dpotrain.engine.memory.device_memory import (
    free_memory,
    map_large_tensors,
    memory_in_use,
    release_memory,
)
from dpotrain.engine.memory.layout import Layout
from dpotrain.engine.memory.model_size import count, trained_bytes
from dpotrain.engine.memory.planner import MemoryPlan, pairs_to_record, plan_memory
from dpotrain.engine.memory.shares import Share
from dpotrain.engine.parallel.protocol import Parallel
from dpotrain.engine.reference.plan import ReferencePlan
from dpotrain.engine.scoring.scorer import Scorer
from dpotrain.engine.training.metrics import peak_memory_mb
from dpotrain.recipe.recipe import Recipe

#: What the tokens that are measured are divided by where they do not fit.
_FEWER = 4


@dataclass(frozen=True, slots=True)
class MicrobatchSize:
    """What a checkpoint keeps of the choice."""

    wanted: int | str
    """``training.tokens_per_microbatch``; where a resumed run sets another value, that one is used."""
    tokens: int
    checkpointed: int
    checkpointing: bool | int | str
    """``training.activation_checkpointing``, likewise."""
    tile: int = 0
    on_host: bool = False
    offload: bool | str = "auto"
    """``training.activation_offload``, likewise."""

    @classmethod
    def of(cls, recipe: Recipe, tokens: int, fit: Fit) -> MicrobatchSize:
        """Describe micro-batches of at most so many tokens, with what was chosen beside."""
        training = recipe.training
        return cls(
            wanted=training.tokens_per_microbatch,
            tokens=tokens,
            checkpointed=fit.checkpointed,
            checkpointing=training.activation_checkpointing,
            tile=fit.tile,
            on_host=fit.on_host,
            offload=training.activation_offload,
        )


def fit_to_memory(
    recipe: Recipe,
    parallel: Parallel,
    scorer: Scorer,
    data: PreparedData,
    costs: Costs,
    reference: ReferencePlan,
    before: Mapping[str, Any] | None,
) -> MemoryPlan:
    """Measure the policy, plan its memory, and have its layers take no more than planned. Collective.

    ``scorer`` is the policy's, on its device, not yet wrapped; a separate reference model is in memory already.
    ``before`` is the :class:`MicrobatchSize` of the checkpoint that the run is resumed from, as plain data.
    """
    policy, device = scorer.policy, parallel.device
    with parallel.gathered(policy):
        per_token = proven_modules(policy, scorer.bf16)
    shards = parallel.shards if parallel.shards > 1 else None
    context = parallel.world_size // parallel.data_size
    layout = Layout(parallel.world_size, shards, context, offload=parallel.offloads)
    activations = _measured(scorer, parallel, context, data.train, costs, per_token)
    # What the measuring freed is not in use, though the allocator may still hold it.
    release_memory()
    size = count(policy)
    # Processes of one machine share its host memory, in which all of them now have what they load.
    parallel.wait()
    host = free_memory(torch.device("cpu")) // parallel.local_size
    free = host if device.type == "cpu" else free_memory(device)
    in_use = memory_in_use(device) or size.bytes
    memory = plan_memory(
        recipe,
        policy,
        Share(size, layout=layout),
        activations,
        costs,
        pairs=data.mixture.pairs,
        device=device.type,
        held={
            "in use": in_use,
            "second copy": trained_bytes(size.trained) if reference.model == "second copy" else 0,
            # Elsewhere the peak of a backward pass is measured, with these.
            "gathered weights": parallel.gathered_bytes(policy) if device.type == "cpu" else 0,
        },
        available=free + in_use,
        host=host,
        sharing=parallel.local_size,
    )
    chosen = memory.fit
    if before is not None:
        chosen = _as_before(memory, MicrobatchSize(**before), recipe, device.type)
    # All processes get what fits on each.
    of_all = parallel.gather_objects((chosen.tokens, chosen.checkpointed, chosen.tile, chosen.on_host))
    tokens, layers, tiles, on_host = zip(*of_all, strict=True)
    chosen = replace(
        chosen, tokens=min(tokens), checkpointed=max(layers), tile=max(tiles), on_host=any(on_host)
    )
    checkpoint_layers(policy, chosen.checkpointed)
    if chosen.tile:
        tile((module for modules in per_token for module in modules), chosen.tile)
        if (
            device.type == "cpu"
        ):  # memory is short; clearing pages takes little beside the attention of long rows
            map_large_tensors()
    if chosen.on_host:
        offload_inputs(policy)
    return replace(memory, fit=chosen)


def predicted_peak_mb(memory: MemoryPlan, batches: BatchPlan) -> float:
    """Return the peak memory of the run, in the sense of :func:`.peak_memory_mb`; never less than so far."""
    return max(sum(memory.parts(batches).values()) / 2**20, peak_memory_mb())


def _measured(
    scorer: Scorer,
    parallel: Parallel,
    context: int,
    pairs: TokenizedPairs,
    costs: Costs,
    per_token: Sequence[Sequence[nn.Module]],
) -> Activations:
    device = parallel.device
    for part in (1, _FEWER):
        pair, some, more = pairs_to_record(pairs, device.type, part)
        cost = Costs.of_data(pair, padded=costs.padded)
        tokens = slice_length(cost.of(some), context), slice_length(cost.of(more), context)
        if parallel.collective_passes:
            # No process can leave such a pass alone, so that all agree beforehand whether to begin it.
            expected = estimate(scorer.policy, scorer.bf16)
            need = expected.peak(tokens[1], 0) + parallel.gathered_bytes(scorer.policy)
            if parallel.any(need > free_memory(device))[0]:
                continue
        try:
            one, two = (pack(pair, chosen).to(device) for chosen in (some, more))
            return replace(measure(scorer, one, two, tokens, per_token), context=context)
        except torch.OutOfMemoryError as error:
            if parallel.collective_passes:  # the others wait for this pass
                raise RunError(_out_of_memory(parallel, tokens[1], error)) from error
        release_memory()  # after the exception that holds the tensors is gone
    # Even these few tokens need checkpointed layers, whose saving can then only be estimated.
    return replace(estimate(scorer.policy, scorer.bf16), context=context)


def _out_of_memory(parallel: Parallel, tokens: int, error: torch.OutOfMemoryError) -> str:
    more = 'set parallel.shard = "all", or raise parallel.context'
    if parallel.shards_weights:
        more = 'shard the weights over more processes (parallel.group), or set parallel.offload = "cpu"'
    return (
        f"{parallel.device} is out of memory ({str(error).splitlines()[0]}) while it is measured what {tokens:,} "
        "tokens keep, before the first step.\n"
        f"The model leaves no room for them: {more}. training.tokens_per_microbatch changes nothing here.\n"
        "dpotrain plan shows what takes how much."
    )


def _as_before(memory: MemoryPlan, before: MicrobatchSize, recipe: Recipe, device: str) -> Fit:
    """Return what the checkpoint has, if the recipe wants the same as then and it still fits."""
    training, activations = recipe.training, memory.activations
    now = (
        training.tokens_per_microbatch,
        training.activation_checkpointing,
        training.activation_offload,
    )
    if (before.wanted, before.checkpointing, before.offload) != now:
        return memory.fit
    layers = min(before.checkpointed, len(activations.layers))
    tile = before.tile if any(activations.tiled) else 0
    on_host = before.on_host and device == "cuda"  # the run may have moved to a CPU
    fit = replace(memory.fit, checkpointed=layers, tile=tile, on_host=on_host)
    if "auto" in now[:2] and fit.peak(activations, before.tokens) > memory.room:
        return memory.fit
    return replace(fit, tokens=before.tokens, checkpointed=before.checkpointed, limit="checkpoint")
