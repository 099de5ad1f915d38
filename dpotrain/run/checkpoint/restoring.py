"""Back to a checkpoint: weights, optimizer, reference, components, random states, counters and the metrics file."""

from __future__ import annotations

from dpotrain.core.errors import RunError
from dpotrain.core.random_state import RandomState
from dpotrain.core.records import BestBy
from dpotrain.engine.training.metrics import Window
from dpotrain.plugin.runtime.states import restore_component_states
from dpotrain.run.checkpoint import files
from dpotrain.run.checkpoint.resuming import Found
from dpotrain.run.checkpoint.saving import CheckpointSaver
from dpotrain.run.checkpoint.tensor_files import check_fits
from dpotrain.run.checkpoint.versions import version_changes
from dpotrain.run.context import RunContext
from dpotrain.run.state import Progress


def restore(saver: CheckpointSaver, found: Found) -> None:
    """Take a run, built anew, back to the newest valid checkpoint; without one, to the first step. Collective.

    Raises:
        RunError: the processes see different checkpoints, the data has changed, or the checkpoint does not fit.
    """
    context, run, trainer = saver.context, saver.context.run, saver.context.trainer
    parallel, reporter, path = trainer.parallel, context.reporter, found.path
    seen = parallel.gather_objects(None if path is None else path.name)
    if len(set(seen)) > 1:
        raise RunError(
            f"the processes see different checkpoints in {saver.folder}: {seen}.\n"
            "The run folder must be on a disk that all of them share."
        )
    for other, fault in found.damaged.items():
        reporter.warn(f"checkpoint {other} is damaged ({fault}) and is skipped")
        if parallel.is_main:
            files.quarantine(other)
    if path is None:
        if parallel.is_main:
            context.metrics.rewind(-1)
            context.samples.rewind(-1)
            context.texts.rewind(0)
            context.evaluations.rewind(())
        reporter.note("there is no checkpoint to resume from; the run begins at step 1")
        return
    moving = trainer.reference.moving_weights
    check_fits(
        path,
        saver.adapter.state(run.policy),
        parallel.whole_shapes(trainer.optimizer),
        reference=moving is not None,
    )
    checkpoint = files.load(path)
    state = checkpoint.state
    if state["data"] != saver.data_identity:
        raise RunError(
            "the data is not the run's: the training pairs, or their order, have changed since it began.\n"
            "Restore the data, or begin a new run: --set run.output_dir=…"
        )
    _warn_of_other_schedule(context, checkpoint.step, state["total_steps"])
    parallel.load_trained(saver.adapter, run.policy, checkpoint.trained)
    parallel.load_optimizer(trainer.optimizer, checkpoint.optimizer)
    if moving is not None:
        with moving.in_policy():
            parallel.load_trained(saver.adapter, run.policy, checkpoint.reference)
    context.state.progress = Progress(**state["progress"])
    if state["total_steps"] != trainer.plan.total_steps:
        context.state.progress.finish_reason = ""  # the recipe asks for other steps than when it was to end
    context.state.window.restore(Window(**state["window"]))
    run.resumed_from = checkpoint.step
    run.logged = context.state.progress.logged
    for owner in restore_component_states(context.recipe, context.events.loggers, checkpoint.components):
        reporter.note(f"the checkpoint holds a state of {owner}, which this recipe does not use")
    if parallel.world_rank < len(state["random"]):
        RandomState.from_json(state["random"][parallel.world_rank]).restore()
    progress, best_by = context.state.progress, context.recipe.checkpoints.best_by
    if parallel.is_main:
        context.metrics.rewind(checkpoint.step, int(progress.last_evaluation.get("step", -1)))
        context.texts.rewind(progress.texts)
        context.samples.rewind(-1 if progress.sampled is None else progress.sampled)
        context.evaluations.rewind({step for step, _ in progress.evaluated_as})
    if BestBy(**state["best_by"]) != best_by:
        evaluations = list(context.metrics.evaluations()) if parallel.is_main else []
        progress.judge_again(parallel.broadcast_object(evaluations), best_by)
    if parallel.is_main:
        # A kill may have come between a checkpoint and the removal of the one that it replaces.
        saver.prune()
    for line in version_changes(state["versions"], saver.versions):
        reporter.note(line)
    reporter.note(f"resumed from the checkpoint of step {checkpoint.step}")


def _warn_of_other_schedule(context: RunContext, step: int, before: int) -> None:
    """Warn where the run's new number of steps changes learning rates of steps that were taken."""
    schedule, total = context.recipe.schedule, context.trainer.plan.total_steps
    if any(schedule.factor(each, before) != schedule.factor(each, total) for each in range(1, step + 1)):
        context.reporter.warn(
            f"the run now has {total} steps instead of {before}: the {schedule.name} schedule continues as if it "
            "always had, and the steps so far had other learning rates"
        )
