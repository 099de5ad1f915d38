"""The disk space that a run takes."""

from __future__ import annotations

from dpotrain.data.batches.plan import BatchPlan
from dpotrain.data.prepare import PreparedData
from dpotrain.engine.memory.model_size import ModelSize, trained_bytes
from dpotrain.engine.reference.plan import ReferencePlan
from dpotrain.engine.reference.store import RECORD
from dpotrain.recipe.recipe import Recipe


def disk_space(recipe: Recipe, data: PreparedData, size: ModelSize, batches: BatchPlan) -> dict[str, int]:
    """Return the most bytes that a run has on the disk at once, by part; tokens are in the cache already."""
    trained = trained_bytes(size.trained)
    reference = trained if recipe.reference.update is not None else 0
    each = trained + recipe.optimizer.state_bytes(size.trained) + reference
    count = checkpoints_kept(recipe, batches.total_steps, evaluated=data.evaluation is not None)
    whole = recipe.adapter is None or recipe.adapter.saves_whole_model
    pairs = int(batches.used().sum()) + (0 if data.evaluation is None else len(data.evaluation))
    parts = {
        f"{count} checkpoint{'s' * (count != 1)}": count * each,
        "final": size.bytes if whole else trained,
    }
    if ReferencePlan.of(recipe).pass_before_training:
        parts["reference log-probs"] = pairs * RECORD.itemsize
    return {name: part for name, part in parts.items() if part}


def checkpoints_kept(recipe: Recipe, steps: int, *, evaluated: bool) -> int:
    """Return the most checkpoints that are there at once: the newest, the best, and the one that is being written."""
    settings = recipe.checkpoints
    if settings.every is None:
        return 1  # where the run is stopped
    saved = -(-steps // settings.every)
    return min(saved, settings.keep + evaluated + 1)
