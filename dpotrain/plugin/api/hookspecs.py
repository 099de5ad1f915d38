"""The hooks of dpotrain. This page, in the order of a run's life, is the reference for plugin authors.

    plugins are loaded                 # dpotrain_kinds, then dpotrain_losses and the hook of every other kind
    recipe is read                     # components are looked up by name in the catalogues and constructed
    component.check() of each selected one
    tokenizer, rows, pairs, tokens     # loader.load_tokenizer, source.load, formatter.format
    policy                             # quantizer.loading_config, loader.load_model, quantizer.prepare,
                                       # adapter.attach, adapter.rehearse_saving, optimizer.build
    dpotrain_run_started(run)
    evaluation of the untrained policy -> dpotrain_evaluated(run, evaluation)
    for every step:
        forward, loss, backward, metrics, update   # schedule.factor says how large
        dpotrain_step_ended(run, step)
        every evaluation.every steps   -> dpotrain_evaluated(run, evaluation)
        every checkpoints.every steps  -> dpotrain_checkpoint_saved(run, checkpoint)
    last evaluation                    -> dpotrain_evaluated(run, evaluation)
    final/ is written
    dpotrain_run_finished(run, outcome)
    exporter.export(run) of each       # the policy has left memory

There are two kinds of hook. **Catalogues** offer component classes; they are called on every process while
the recipe is read (and by ``dpotrain plugins`` and ``dpotrain schema``), so the module that implements one must
not import torch, transformers or anything as heavy at its top. **Run events** are called only for what the recipe
selects: the module of a plugin that offers a selected component (or that ``requires`` names), and the selected
component objects themselves. They are called by keyword; each listener is isolated, so that all others are still
called when one raises. A plugin's module of which only loggers are selected is dropped with them where it raises; any
other listener that raises ends the run with an error that names it, after the event.

Run events are called in the thread that trains, between two steps, and the next step waits until they return. Those
of a logger are called in the logger's own thread, in order with ``start``, ``log`` and ``finish``, and ``run`` is a
``LoggedRun`` there, without the policy. No step waits for them, and a logger that raises or hangs is dropped.

Modules of plugins, sources, formatters, loggers and exporters hear run events on the main process. Methods of a model
loader, quantizer, adapter, loss, optimizer, schedule or metric are called on every process, so that what such a
component keeps of the run is the same wherever it computes; ``run.is_main_process`` says where it is. Metrics of a step
and of an evaluation are means over all processes and equal on all of them, but for speeds and memory.

A hook implementation may take fewer arguments than its spec, and ``@hookimpl(tryfirst=True)`` or ``trylast=True``
move it within the order of listeners. Wrappers are refused, since they could not be isolated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dpotrain.core.records import CheckpointRecord, Outcome, Record, Run, StepRecord
from dpotrain.plugin.api.component import hookspec
from dpotrain.plugin.api.kinds import CORE_KINDS, Kinds, dpotrain_kinds


@hookspec
def dpotrain_run_started(run: Run) -> None:
    """Act when everything is loaded, before the first step.

    Called: once a run, after the policy is loaded, before the evaluation of the untrained policy; also when a
    run is resumed (``run.resumed_from`` is then not 0).

    Rank: the main process; every process for components whose kind shapes the steps.

    Must not import: anything is allowed, but training waits for it.

    Result: none. ``run.report(section, values)`` puts plain values into ``summary.json``.

    Example:
        from dpotrain import hookimpl


        @hookimpl
        def dpotrain_run_started(run):
            run.note(f"training on {run.train_pairs} pairs in {run.total_steps} steps")
    """


@hookspec
def dpotrain_evaluated(run: Run, evaluation: Record) -> None:
    """Act after the held-out pairs were scored.

    Called: after every evaluation, ``evaluation.step`` saying after which step; 0 is the untrained policy. Its metrics
    have what callbacks and modules before this one have logged in the event.

    Rank: the main process; every process for components whose kind shapes the steps.

    Must not import: anything is allowed.

    Result: none.

    Example:
        from dpotrain import hookimpl


        @hookimpl
        def dpotrain_evaluated(run, evaluation):
            if evaluation.step and evaluation.metrics["rewards/accuracies"] < 0.5:
                run.note(f"step {evaluation.step}: the reward still prefers the rejected answers")
    """


@hookspec
def dpotrain_step_ended(run: Run, step: StepRecord) -> None:
    """Act after each optimizer step.

    Called: after every update, before the evaluation and the checkpoint that may be due.

    Rank: the main process; every process for components whose kind shapes the steps.

    Must not import: anything heavy inside the function; it runs in every step, so it must be quick, and
    must not change the policy.

    Result: none.

    Example:
        from dpotrain import hookimpl


        @hookimpl
        def dpotrain_step_ended(run, step):
            if step.metrics["grad_norm"] > 100:
                run.note(f"step {step.step}: the gradient norm is {step.metrics['grad_norm']:.0f}")
    """


@hookspec
def dpotrain_checkpoint_saved(run: Run, checkpoint: CheckpointRecord) -> None:
    """Act when a checkpoint is complete on disk.

    Called: after the checkpoint was renamed into place. Checkpoints are written while training goes on, so that is
    after its own step or a later one; older ones may be gone by then.

    Rank: the main process.

    Must not import: anything is allowed.

    Result: none. Old checkpoints are deleted by ``checkpoints.keep``; copy what must stay.

    Example:
        from dpotrain import hookimpl


        @hookimpl
        def dpotrain_checkpoint_saved(run, checkpoint):
            size = sum(file.stat().st_size for file in checkpoint.path.rglob("*") if file.is_file())
            run.note(f"{checkpoint.path.name} takes {size / 1e6:.1f} MB")
    """


@hookspec
def dpotrain_run_finished(run: Run, outcome: Outcome) -> None:
    """Act at the end of the run, while the policy is still in memory.

    Called: once a run that was started, also when it was stopped or failed (``outcome.status``), after
    ``final/`` is written and before ``summary.json`` is, so that reported values are in it.

    Rank: the main process; every process for components whose kind shapes the steps.

    Must not import: anything is allowed.

    Result: none. ``run.report(section, values)`` puts plain values into ``summary.json``; a value called
    ``"table"`` is shown in the closing summary.

    Example:
        from dpotrain import hookimpl


        @hookimpl
        def dpotrain_run_finished(run, outcome):
            if outcome.status == "finished":
                run.report("timing", {"minutes": round(outcome.seconds / 60, 1)})
    """


#: The specifications of the run events, in the order of a run.
EVENTS: dict[str, Callable[..., Any]] = {
    event.__name__: event
    for event in (
        dpotrain_run_started,
        dpotrain_evaluated,
        dpotrain_step_ended,
        dpotrain_checkpoint_saved,
        dpotrain_run_finished,
    )
}


def hooks_of(kinds: Kinds) -> dict[str, Callable[..., Any]]:
    """Return the specifications of all hooks that plugins can implement."""
    declared = {dpotrain_kinds.__name__: dpotrain_kinds}
    return {**declared, **{kind.catalogue: kind.hook for kind in kinds}, **EVENTS}


#: Those of the core, in the order of this page.
HOOKS: dict[str, Callable[..., Any]] = hooks_of(CORE_KINDS)
