"""What is shown before the first step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dpotrain.core.formats import megabytes, plural
from dpotrain.core.loss_terms import terms_text
from dpotrain.core.pair_columns import APPLIED
from dpotrain.engine.scoring.objective import applied_columns

if TYPE_CHECKING:
    from dpotrain.data.batches.plan import BatchPlan
    from dpotrain.data.prepare import PreparedData
    from dpotrain.engine.memory.planner import MemoryPlan
    from dpotrain.engine.parallel.protocol import Parallel
    from dpotrain.engine.scoring.router_loss import RouterLoss
    from dpotrain.engine.scoring.scorer import Scorer
    from dpotrain.recipe.recipe import Recipe
    from dpotrain.recipe.sections.reference import ReferenceUpdate

#: What limits the micro-batches, as it is shown.
LIMITS = {
    "memory": "what fits into memory",
    "speed": "more would be no faster",
    "recipe": "set in the recipe",
    "checkpoint": "as in the checkpoint",
}


def remote_code(recipe: Recipe) -> str:
    """Return whose Python code the recipe allows to run; empty where it allows none."""
    options = recipe.model.options
    if not getattr(options, "trust_remote_code", False):
        return ""
    return (
        f"Python code that comes with {getattr(options, 'name', recipe.model.name)} (model.trust_remote_code)"
    )


def moving_reference(update: ReferenceUpdate) -> str:
    """Return how a reference follows the policy."""
    becomes = (
        "the policy" if update.share == 1 else f"{update.share:g} policy + {1 - update.share:g} reference"
    )
    return f"becomes {becomes} every {plural(update.every, 'step')}"


def run_info(
    recipe: Recipe,
    data: PreparedData,
    scorer: Scorer,
    batches: BatchPlan,
    parallel: Parallel,
    layout: str,
    memory: MemoryPlan,
    peak_mb: float,
    threads: str,
    router_loss: RouterLoss | None,
    kernels: str,
) -> dict[str, str]:
    """Return model, data, loss, steps, engine and memory of a run by label.

    ``layout`` is why processes hold all weights or share them, where the recipe leaves that to the run.
    ``peak_mb`` is the predicted peak, ``threads`` how many compute on a CPU, ``kernels`` which Triton
    kernels on a GPU.
    """
    weights = list(scorer.parameters())
    total = sum(weight.numel() for weight in weights)
    trained = sum(weight.numel() for weight in weights if weight.requires_grad)
    name = getattr(recipe.model.options, "name", recipe.model.name)
    quantized = "" if recipe.quantizer is None else f", {recipe.quantizer.name}"
    what = "all weights" if recipe.adapter is None else recipe.adapter.name
    evaluated = 0 if data.evaluation is None else len(data.evaluation)
    held_out = f"{data.report.evaluation_pairs or 0:,} held out"
    if evaluated < (data.report.evaluation_pairs or 0):
        held_out = f"evaluated on {evaluated:,} of {held_out}"
    tokens = int(np.sum(data.train.lengths[data.mixture.order(recipe.seed, 0, recipe.data.shuffle)]))
    precision = "bf16" if scorer.bf16 else "fp32"
    epochs = batches.epochs_done(batches.total_steps)
    processes = "" if parallel.world_size == 1 else f", {parallel.world_size} processes"
    if parallel.context is not None:
        processes += f", each pair on {parallel.context.size} of them"
    if layout:
        processes += f", {layout}"
    elif parallel.shards_weights:
        processes += f", weights sharded over {parallel.shards}"
    computing = "".join(f", {each}" for each in (threads, kernels) if each)
    fit = memory.fit
    layers = f", {fit.checkpointed} of {fit.layers} layers checkpointed" if fit.checkpointed else ""
    layers += f", longer rows in tiles of {fit.tile:,} tokens" if fit.tile else ""
    layers += ", layers' inputs in the host's memory" if fit.on_host else ""
    if memory.gathered:
        layers += (
            f", {megabytes(memory.gathered / 2**20)} of the main process's host memory for each checkpoint"
        )
    plain = ", without the chat template" if data.report.plain_text_for_chat_model else ""
    code = remote_code(recipe)
    loss, update = recipe.loss, recipe.reference.update
    beta = "" if loss.options.beta is None else f", beta {loss.options.beta:g}"
    objective = [f"{loss.name}{beta}{terms_text(recipe.document['loss'])}"]
    objective += [loss.options.divergence] * (loss.options.divergence != "reverse-kl")
    objective += [] if loss.options.weighting is None else [loss.options.weighting]
    objective += [f"tail weight {loss.options.tail_weight:g}"] * (loss.options.tail_weight != 1)
    applied = applied_columns(recipe)
    objective += [f"by the column {name}" for name in APPLIED if name in applied]
    objective += ["over all pairs of a step: one forward more"] * loss.couples_pairs
    if router_loss is not None:
        more = "" if loss.couples_pairs else ": one forward more in steps of several micro-batches"
        objective += [f"router loss with weight {router_loss.routing.weight:g}{more}"]
    return {
        "model": f"{name}{quantized}",
        **({"remote code": code} if code else {}),
        "training": f"{what}: {trained:,} of {total:,} parameters",
        "data": f"{_pairs(data)} ({data.formatter}{plain}), {tokens:,} tokens; {held_out}",
        "loss": ", ".join(objective),
        **({} if update is None else {"reference": moving_reference(update)}),
        "steps": f"{batches.total_steps:,} with {plural(batches.pairs_per_step, 'pair')} each, "
        f"{epochs:.3g} {'epoch' if round(epochs, 3) == 1 else 'epochs'}",
        "engine": f"{'packed' if scorer.packs else 'padded'}, {precision}, on {parallel.device}{computing}{processes}",
        "memory": f"peak of about {megabytes(peak_mb)}; {fit.tokens:,} tokens a pass ({LIMITS[fit.limit]}){layers}",
        "folder": str(recipe.run.output_dir),
    }


def _pairs(data: PreparedData) -> str:
    """Return how many pairs an epoch has, and of which sources."""
    mixture = data.mixture
    if len(mixture.names) == 1:
        return f"{mixture.pairs:,} pairs"
    parts = [f"{count:,} of {name}" for name, count in zip(mixture.names, mixture.counts, strict=True)]
    return f"{mixture.pairs:,} pairs an epoch, {', '.join(parts)}"
