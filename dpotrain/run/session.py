"""A run from a checked recipe to ``final/`` and ``summary.json``."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import partial

import torch

from dpotrain.core import summary
from dpotrain.core.controls import Controls
from dpotrain.core.errors import INTERRUPTED, DpotrainError, RunError, RunStopped, describe_exception
from dpotrain.core.leaving import flush_output
from dpotrain.core.masking import mask
from dpotrain.core.records import Outcome, Record, SamplesRecord, Status
from dpotrain.core.reporter import Reporter, Reporters, SilentReporter
from dpotrain.data.prepare import PreparedData
from dpotrain.engine.memory.device_memory import (
    keep_few_compiled_products,
    release_memory,
    use_expandable_segments,
)
from dpotrain.engine.parallel.errors import distributed_errors
from dpotrain.engine.parallel.failure import RankFailure
from dpotrain.engine.parallel.protocol import Parallel
from dpotrain.engine.parallel.start import start
from dpotrain.engine.threads import restoring_threads, share_threads
from dpotrain.plugin.runtime.events import RunEvents
from dpotrain.plugin.runtime.failures import named
from dpotrain.recipe.document import dump_recipe
from dpotrain.recipe.recipe import Recipe
from dpotrain.recipe.sharding import sharding_fault
from dpotrain.run.building.build import BuiltRun, build
from dpotrain.run.checkpoint.restoring import restore
from dpotrain.run.checkpoint.resuming import Found, as_written, find_resumable
from dpotrain.run.exporting import export
from dpotrain.run.folder.lock import RunLock
from dpotrain.run.folder.log import LoggedReporter, logging_to
from dpotrain.run.folder.metrics_file import MetricsFile
from dpotrain.run.folder.restrict_umask import restrict_umask
from dpotrain.run.folder.run_folder import RunFolder
from dpotrain.run.folder.status_file import StatusFile
from dpotrain.run.folder.text_files import SamplesFile
from dpotrain.run.layout import spread
from dpotrain.run.result import outcome_of, save_result
from dpotrain.run.stopping import StopRequest

#: Seconds that loggers have to close where the run was asked to stop, since who asked may soon kill it, and where a
#: second Ctrl-C asked to stop at once.
HURRY_WHEN_STOPPED = 10.0
HURRY_WHEN_INTERRUPTED = 2.0

#: Seconds that a run that resumes after the loss of a process or a machine waits for its folder: a file system that
#: machines share gives back the lock of one that is lost only when that has not been heard of for a while.
LOCK_SECONDS = 180.0

#: Phases as they are shown: before all others, where that may take a while, and after them.
LOCKING = "taking the run folder"
CLOSING = "closing loggers and plugins"


def run_recipe(recipe: Recipe, reporter: Reporter, *, resume: bool = False) -> Outcome:
    """Run a recipe, shown by ``reporter`` on the main process, and return how it ended (see :func:`dpotrain.train`).

    The caller enters ``reporter`` before and leaves it afterwards.
    """
    parallel = start(recipe.parallel.context, recipe.parallel.group, recipe.document)
    use_expandable_segments(parallel.device)
    keep_few_compiled_products(parallel.device, recipe.data.max_length)
    folder = RunFolder(recipe.run.output_dir)
    with ExitStack() as stack:
        stack.enter_context(restrict_umask())
        stack.enter_context(restoring_threads())
        share_threads(parallel.local_size)
        stack.enter_context(_telling_others(parallel))
        stack.enter_context(distributed_errors(parallel))
        # A machine that joins a run later was perhaps started without it.
        (resume,) = parallel.any(resume)
        finished = found = None
        if resume:
            finished = folder.finished(recipe)
        if parallel.is_main and (finished is None or recipe.exporters):
            folder.make()
            lock = RunLock(folder.path)
            if resume and (_started_again() or lock.of_another_machine()):
                lock.patience = LOCK_SECONDS
            with reporter.phase(LOCKING, None) if lock.patience else nullcontext():
                stack.enter_context(lock)
        if resume and finished is None:
            with reporter.phase("verifying the checkpoints", None):
                found = find_resumable(folder.checkpoints, recipe, parallel)
        if parallel.is_main and finished is None:
            folder.begin(resume=resume)
        parallel.wait()
        shown: Reporter = SilentReporter()
        if parallel.is_main:
            stack.enter_context(logging_to(folder.log, reporter.warn))
            told = [reporter]
            if finished is None:
                status = StatusFile(folder.status, evaluate_every=recipe.evaluation.every)
                told.append(stack.enter_context(status))
            shown = LoggedReporter(Reporters(*told))
        if finished is not None:
            shown.note(f"{folder.path} holds this run, finished; there is nothing to resume")
            outcome = summary.from_json(finished, folder.path)
        else:
            controls = Controls()
            shown.controls(controls)
            with StopRequest(controls, minutes=recipe.run.max_minutes, say=shown.note) as stop:
                outcome = _run(recipe, folder, parallel, shown, stop, found)
        parallel.leave()
        try:
            if parallel.is_main and outcome.status == "finished" and recipe.exporters:
                folder.write(folder.recipe, dump_recipe(recipe))
                release_memory()
                export(recipe, folder, outcome, shown)
        finally:
            shown.finished(outcome)
        return outcome


def _started_again() -> bool:
    """Whether the launcher has started the processes before."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def _run(
    recipe: Recipe,
    folder: RunFolder,
    parallel: Parallel,
    reporter: Reporter,
    stop: StopRequest,
    found: Found | None,
) -> Outcome:
    events = RunEvents(recipe, recipe.plugins, reporter, recipe.logging.patience)
    built: BuiltRun | None = None
    shards_weights = False

    def spread_out(recipe: Recipe, joined: Parallel, data: PreparedData) -> tuple[Parallel, str]:
        nonlocal shards_weights
        held, why = spread(recipe, joined, data)
        shards_weights = held.shards_weights
        return held, why

    try:
        with distributed_errors(parallel):
            _end_with_others(folder, parallel, None, reporter)
            built = build(recipe, folder, parallel, reporter, stop, events, found, spread_out)
            _end_with_others(folder, parallel, built, reporter)
            stop.leave_at_once = partial(
                _leave_at_once, folder, parallel, built, reporter, KeyboardInterrupt()
            )
            if found is not None:
                with as_written(folder.checkpoints), reporter.phase("restoring the checkpoint", None):
                    restore(built.loop.checkpoints, found)
                if parallel.is_main and built.context.state.step:
                    _show_what_was_written(folder, reporter)
            if parallel.is_main:
                folder.write(folder.recipe, dump_recipe(recipe))
            status = built.loop.run_to_end()
            final = None
            if status == "finished":
                with reporter.phase("saving the result", None):
                    final = save_result(built, folder.final)
            outcome = outcome_of(built, status, final)
            if parallel.is_main and built.measuring is not None:
                built.measuring.remember(outcome)
    except BaseException as error:
        shown = _for_person(error, parallel, recipe, shards_weights)
        parallel.fail(*_text_and_code(shown))
        outcome = _outcome_of_failure(folder, built, shown)
        with reporter.phase(CLOSING, None):
            _finish(folder, parallel, events, built, outcome, shown)
        if built is not None and built.context.state.step:
            reporter.finished(outcome)
        if shown is error:
            raise
        raise shown from error
    with reporter.phase(CLOSING, None):
        _finish(folder, parallel, events, built, outcome, None)
    return outcome


def _show_what_was_written(folder: RunFolder, reporter: Reporter) -> None:
    """Show a resumed run's records and samples of the steps before."""
    records = [line for line in MetricsFile(folder.metrics).read() if isinstance(line, Record)]
    samples = [line for line in SamplesFile(folder.samples).read() if isinstance(line, SamplesRecord)]
    reporter.resumed(records, samples)


def _finish(
    folder: RunFolder,
    parallel: Parallel,
    events: RunEvents,
    built: BuiltRun | None,
    outcome: Outcome,
    error: BaseException | None,
) -> None:
    """Publish the outcome, close the loggers and write the summary; nothing here may hide ``error``, a failed run's."""
    hurry = HURRY_WHEN_STOPPED if outcome.status == "stopped" else math.inf
    if isinstance(error, KeyboardInterrupt):
        hurry = HURRY_WHEN_INTERRUPTED
    try:
        if built is not None:
            built.context.run.close()
            events.run_finished(built.context.run, outcome)
    except DpotrainError as second:
        if error is None:
            raise
        error.add_note(str(second))
    finally:
        try:
            events.loggers.finish(outcome, hurry)
        finally:  # also where a person cuts the wait for a logger short
            if parallel.is_main:
                # What ended the run, a full disk perhaps, may be in the way here, too.
                with nullcontext() if error is None else suppress(RunError):
                    folder.write(folder.summary, summary.to_json(outcome))


@contextmanager
def _telling_others(parallel: Parallel) -> Iterator[None]:
    """Tell the other processes of an error that ends this one, so that they do not wait for it."""
    try:
        yield
    except BaseException as error:
        parallel.fail(*_text_and_code(error))
        raise


def _end_with_others(
    folder: RunFolder, parallel: Parallel, built: BuiltRun | None, reporter: Reporter
) -> None:
    """Let the run end when another process fails, also while the main thread waits for the device."""

    def told(failure: RankFailure) -> None:
        # At once: a library that notices as well may abort the process.
        if parallel.is_main:
            outcome = _outcome_of_failure(folder, built, failure.error())
            with suppress(RunError):
                folder.write(folder.summary, summary.to_json(outcome))

    def leave(failure: RankFailure) -> None:
        _leave_at_once(folder, parallel, built, reporter, failure.error())

    parallel.on_failure(told, leave)


def _leave_at_once(
    folder: RunFolder, parallel: Parallel, built: BuiltRun | None, reporter: Reporter, error: BaseException
) -> None:
    """End the process, with the summary of a run that ``error`` ends; called while the main thread computes."""
    text, code = _text_and_code(error)
    try:
        parallel.fail(text, code)
        outcome = _outcome_of_failure(folder, built, error)
        if parallel.is_main:
            folder.write(folder.summary, summary.to_json(outcome))
        reporter.finished(outcome)
        if not isinstance(error, KeyboardInterrupt):
            word = "stopped" if isinstance(error, RunStopped) else "error"
            print(f"{word}: {text}", file=sys.stderr)
        flush_output()
    except Exception as second:
        reporter.warn(describe_exception(second))
    finally:
        os._exit(code)


def _outcome_of_failure(folder: RunFolder, built: BuiltRun | None, error: BaseException) -> Outcome:
    if isinstance(error, KeyboardInterrupt):
        if built is not None:
            return outcome_of(built, "interrupted", None)
        return Outcome(status="interrupted", steps=0, folder=folder.path, final=None)
    text, _ = _text_and_code(error)
    if built is not None:
        return outcome_of(built, "failed", None, error=text)
    status: Status = "stopped" if isinstance(error, RunStopped) else "failed"
    return Outcome(status=status, steps=0, folder=folder.path, final=None, error=text)


def _text_and_code(error: BaseException) -> tuple[str, int]:
    """Return what is said of an error, without secrets, and the exit code of a process that it ends."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", INTERRUPTED
    if isinstance(error, DpotrainError):
        return mask(str(error)), error.exit_code
    return mask(f"{type(error).__name__}: {error}".rstrip(": ")), DpotrainError.exit_code


def _for_person(
    error: BaseException, parallel: Parallel, recipe: Recipe, shards_weights: bool
) -> BaseException:
    """Return what a person is told: which plugin failed, or for a device out of memory what to do about it.

    ``shards_weights`` is whether the processes shard the weights already.
    """
    if not isinstance(error, torch.OutOfMemoryError):
        return named(error, recipe, recipe.plugins)
    could = parallel.world_size > 1 and not shards_weights
    could = could and sharding_fault(recipe, recipe.reference.quantizer) is None
    shard = 'parallel.shard = "all" shards the weights over the processes.\n' if could else ""
    return RunError(
        f"{parallel.device} is out of memory ({str(error).splitlines()[0]}).\n"
        "Lower training.tokens_per_microbatch, or set training.activation_checkpointing = true and on a GPU "
        "training.activation_offload = true (none changes\nresults), or lower data.max_length. With checkpoints, "
        "--resume continues from the last one.\n"
        f"{shard}dpotrain plan shows what takes how much, and what each remedy would save."
    )
