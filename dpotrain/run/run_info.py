"""What a person wants to see before the first step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dpotrain.core.formats import megabytes

if TYPE_CHECKING:
    from dpotrain.data.batches.plan import BatchPlan
    from dpotrain.data.prepare import PreparedData
    from dpotrain.engine.memory.budget import Fit
    from dpotrain.engine.parallel.protocol import Parallel
    from dpotrain.engine.scoring.scorer import Scorer
    from dpotrain.recipe.recipe import Recipe
    from dpotrain.run.folder.run_folder import RunFolder
    from dpotrain.run.forecast import Forecast
    from dpotrain.run.sizing import Sizing


def title(recipe: Recipe) -> str:
    """Return what the run is called: its recipe's file."""
    return recipe.path.name if recipe.path is not None else "recipe"


def remote_code(recipe: Recipe) -> str:
    """Say whose Python code the recipe allows to run; nothing where it allows none."""
    options = recipe.model.options
    if not getattr(options, "trust_remote_code", False):
        return ""
    return (
        f"Python code that comes with {getattr(options, 'name', recipe.model.name)} (model.trust_remote_code)"
    )


def run_info(
    recipe: Recipe,
    data: PreparedData,
    scorer: Scorer,
    plan: BatchPlan,
    sizing: Sizing,
    forecast: Forecast,
    parallel: Parallel,
    folder: RunFolder,
) -> dict[str, str]:
    """Return labelled facts about model, data, loss, steps and engine."""
    weights = list(scorer.parameters())
    total = sum(weight.numel() for weight in weights)
    trained = sum(weight.numel() for weight in weights if weight.requires_grad)
    name = getattr(recipe.model.options, "name", recipe.model.name)
    quantized = "" if recipe.quantizer is None else f", {recipe.quantizer.name}"
    what = "all weights" if recipe.adapter is None else recipe.adapter.name
    held_out = 0 if data.evaluation is None else len(data.evaluation)
    tokens = int(np.sum(data.train.lengths))
    precision = "bf16" if scorer.bf16 else "fp32"
    epochs = plan.epochs_done(plan.total_steps)
    processes = "" if parallel.world_size == 1 else f", {parallel.world_size} processes"
    code = remote_code(recipe)
    return {
        "model": f"{name}{quantized}",
        **({"remote code": code} if code else {}),
        "training": f"{what}: {trained:,} of {total:,} parameters",
        "data": f"{len(data.train):,} pairs ({data.formatter}), {tokens:,} tokens; {held_out:,} held out",
        "loss": f"{recipe.loss.name}, beta {recipe.loss.options.beta:g}",
        "steps": f"{plan.total_steps:,} of {plan.pairs_per_step} pairs each, {epochs:.3g} epochs",
        "engine": (f"{'packed' if scorer.packs else 'padded'}, {precision}, on {parallel.device}{processes}"),
        "memory": memory_line(sizing.fit, forecast.peak_memory_mb),
        "folder": str(folder.path),
    }


#: Why micro-batches are no larger, for a person.
LIMITS = {
    "memory": "what fits into free memory",
    "speed": "more would be no faster",
    "recipe": "set in the recipe",
    "checkpoint": "as in the checkpoint",
}


def memory_line(fit: Fit, peak_mb: float) -> str:
    """Say what was chosen to make the run fit, and what it will take."""
    layers = f", {fit.checkpointed} of {fit.layers} layers checkpointed" if fit.checkpointed else ""
    return f"about {megabytes(peak_mb)}; {fit.tokens:,} tokens a pass ({LIMITS[fit.limit]}){layers}"
