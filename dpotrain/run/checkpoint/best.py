"""``evaluation.best``: the policy of the best evaluation, from its checkpoint, in place of the last step's."""

from __future__ import annotations

import math

from dpotrain.run.checkpoint import files
from dpotrain.run.checkpoint.saving import CheckpointSaver


def load_best(saver: CheckpointSaver) -> int:
    """Put the weights of the best evaluation into the policy of a run that took its last step; return their step.

    The run keeps its counters and evaluations. Collective.
    """
    context = saver.context
    recipe, progress, trainer = context.recipe, context.state.progress, context.trainer
    if not recipe.evaluation.best:
        return progress.step
    saver.wait()
    chosen = trainer.parallel.broadcast_object(_choose(saver) if trainer.parallel.is_main else progress.step)
    if chosen != progress.step:
        checkpoint = files.load(files.path_of(saver.folder, chosen))
        trainer.parallel.load_trained(saver.adapter, context.run.policy, checkpoint.trained)
    by = recipe.checkpoints.best
    context.reporter.note(f"final/ holds the policy of step {chosen}, whose evaluation is the best by {by}")
    return chosen


def _choose(saver: CheckpointSaver) -> int:
    """Return the step with the best evaluation of those whose weights are there: the last one's are, in memory."""
    context = saver.context
    progress, best_by = context.state.progress, context.recipe.checkpoints.best_by
    values = dict(progress.evaluated_as)
    there = {files.step_of(path): path for path in files.complete(saver.folder)}
    while True:
        best = progress.best_of(sorted({*there, progress.step}), best_by)
        if best is None or best == progress.step or math.isnan(values[best]):
            best = progress.step
            break
        fault = files.verify(there[best])
        if fault is None:
            break
        context.reporter.warn(f"checkpoint {there.pop(best)} is damaged ({fault}) and is skipped")
    best_of_all = progress.best_step(best_by)
    if best_of_all is not None and best_by.better(values[best_of_all], values.get(best, math.nan)):
        context.reporter.warn(
            f"the best evaluation by {best_by.metric} was at step {best_of_all}, of which no checkpoint is left"
        )
    if 0 in values and best_by.better(values[0], values.get(best, math.nan)):
        context.reporter.warn(
            f"no evaluation after the first step is as good by {best_by.metric} as the one before training"
        )
    return best
