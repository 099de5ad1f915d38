"""A run from a checked recipe to ``final/`` and ``summary.json``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType

from dpotrain.core import summary
from dpotrain.core.atomic import folder_aside
from dpotrain.core.errors import DpotrainError, RunError, RunStopped
from dpotrain.core.masking import mask
from dpotrain.core.records import Outcome, Status
from dpotrain.core.reporter import Reporter, SilentReporter
from dpotrain.core.write_errors import system_error
from dpotrain.engine.attention import packed as attention
from dpotrain.engine.parallel.errors import waiting_for_others
from dpotrain.engine.scoring.scorer import causal_lm
from dpotrain.engine.training.metrics import peak_memory_mb
from dpotrain.plugin.runtime.events import RunEvents
from dpotrain.plugin.runtime.failures import named
from dpotrain.recipe import dump_recipe
from dpotrain.run.build import bring_up
from dpotrain.run.checkpoint.resuming import as_written, check_resumable
from dpotrain.run.engine_builder import free_memory_between_phases
from dpotrain.run.exporting import export
from dpotrain.run.folder.lock import RunLock
from dpotrain.run.folder.log import LoggedReporter, logging_to
from dpotrain.run.folder.restrict_umask import own_files
from dpotrain.run.folder.run_folder import RunFolder
from dpotrain.run.loop import RunLoop
from dpotrain.run.stopping import StopRequest

if TYPE_CHECKING:
    from dpotrain.recipe.recipe import Recipe


#: Seconds that loggers have to close where the run was asked to stop, since who asked may soon kill it, and where a
#: second Ctrl-C asked to stop at once.
HURRY_WHEN_STOPPED = 10.0
HURRY_WHEN_INTERRUPTED = 2.0


def run_recipe(recipe: Recipe, reporter: Reporter, *, resume: bool = False) -> Outcome:
    """Run a recipe, shown by ``reporter`` on the main process, and return how it ended (see :func:`dpotrain.train`)."""
    # The scorer casts by itself, and only CUDA and CPU are proven.
    accelerator = Accelerator(
        mixed_precision="no",
        cpu=not torch.cuda.is_available(),
        # No second copy of the gradients, and nothing to broadcast: no buffer changes.
        kwargs_handlers=[
            DistributedDataParallelKwargs(gradient_as_bucket_view=True, broadcast_buffers=False)
        ],
    )
    refuse_sharding(accelerator.distributed_type)
    folder = RunFolder(recipe.run.output_dir)
    with ExitStack() as stack:
        stack.enter_context(own_files())
        finished = before = None
        if resume:
            finished = folder.finished(recipe.document)
        if accelerator.is_main_process and (finished is None or recipe.exporters):
            folder.make()
            stack.enter_context(RunLock(folder.path))
        if resume and finished is None:
            before = check_resumable(folder.checkpoints, recipe)
        if accelerator.is_main_process and finished is None:
            folder.begin(resume=resume)
        with waiting_for_others():
            accelerator.wait_for_everyone()
        shown: Reporter = SilentReporter()
        if accelerator.is_main_process:
            person = stack.enter_context(reporter)
            stack.enter_context(logging_to(folder.log, person.warn))
            shown = LoggedReporter(person)
        if finished is not None:
            shown.note(f"{folder.path} holds this run, finished; there is nothing to go on with")
            outcome = summary.from_json(finished, folder.path)
        else:
            with StopRequest(recipe.run.max_minutes) as stop:
                outcome = _run(recipe, folder, accelerator, shown, stop, resume, before)
        try:
            if accelerator.is_main_process and outcome.status == "finished" and recipe.exporters:
                folder.write_recipe(dump_recipe(recipe))
                accelerator.free_memory()
                free_memory_between_phases()
                export(recipe, folder, outcome, shown)
        finally:
            shown.finished(outcome)
        return outcome


def refuse_sharding(kind: DistributedType) -> None:
    """Raise a RunError where the launcher asks for weights to be sharded: that is not proven exact yet."""
    if kind in (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise RunError(
            f"the launcher asks for {kind.value}, and dpotrain does not shard weights.\n"
            "Launch plain data parallelism (accelerate launch --multi_gpu, or torchrun); where the weights "
            "do not fit one GPU, add an [adapter] and a [quantizer]."
        )


def _run(
    recipe: Recipe,
    folder: RunFolder,
    accelerator: Accelerator,
    reporter: Reporter,
    stop: StopRequest,
    resume: bool,
    before: Mapping[str, Any] | None,
) -> Outcome:
    events = RunEvents(recipe, recipe.plugins, reporter, recipe.logging.patience)
    loop: RunLoop | None = None
    try:
        with waiting_for_others():
            loop = bring_up(recipe, folder, accelerator, reporter, stop, events, before)
            if resume:
                with as_written(folder.checkpoints):
                    loop.resume()
            if accelerator.is_main_process:
                folder.write_recipe(dump_recipe(recipe))
            status = loop.go()
            final = _save_final(loop) if status == "finished" else None
            outcome = _outcome(loop, status, final)
    except BaseException as error:
        told = _told(error, accelerator, recipe)
        outcome = _failed(folder, accelerator, events, loop, told)
        if loop is not None and loop.progress.step:
            reporter.finished(outcome)
        if told is error:
            raise
        raise told from error
    try:
        events.run_finished(loop.run, outcome)
    finally:
        _close(folder, accelerator, events, outcome)
    return outcome


def _close(
    folder: RunFolder,
    accelerator: Accelerator,
    events: RunEvents,
    outcome: Outcome,
    error: BaseException | None = None,
) -> None:
    """Close the loggers and leave the summary, also where a person cuts the wait for a logger short."""
    hurry = math.inf
    if isinstance(error, KeyboardInterrupt):
        hurry = HURRY_WHEN_INTERRUPTED
    elif outcome.status == "stopped":
        hurry = HURRY_WHEN_STOPPED
    try:
        events.loggers.finish(outcome, hurry)
    finally:
        if accelerator.is_main_process:
            # What ended the run, a full disk perhaps, may be in the way here, too.
            with nullcontext() if error is None else suppress(RunError):
                folder.write_summary(summary.to_json(outcome))


def _told(error: BaseException, accelerator: Accelerator, recipe: Recipe) -> BaseException:
    """Return what a person is told: which plugin failed, or for a device out of memory what to do about it."""
    if not isinstance(error, torch.OutOfMemoryError):
        return named(error, recipe, recipe.plugins)
    return RunError(
        f"{accelerator.device} is out of memory ({str(error).splitlines()[0]}).\n"
        "Lower training.tokens_per_microbatch or set training.activation_checkpointing = true (neither changes "
        "results),\nor lower data.max_length. With checkpoints, --resume goes on from the last one.\n"
        "dpotrain plan shows what takes how much, and what each remedy would save."
    )


def _save_final(loop: RunLoop) -> Path | None:
    """Write what a user takes away, aside first; the main process writes, the others wait."""
    attention.uninstall(causal_lm(loop.run.policy))
    if loop.run.is_main_process:
        try:
            held_as_loaded = nullcontext() if loop.widened is None else loop.widened.narrow()
            with folder_aside(loop.folder.final) as aside, held_as_loaded:
                loop.adapter.save(loop.scorer.policy, aside)
                loop.run.tokenizer.save_pretrained(aside)
        except Exception as error:
            if (said := system_error(error)) is None:
                raise
            raise RunError(
                f"training is done, but {loop.folder.final} cannot be written: {said}.\n"
                "Free disk space or fix the permissions; --resume then continues from the last checkpoint."
            ) from error
    loop.trainer.accelerator.wait_for_everyone()
    return loop.folder.final


def _outcome(loop: RunLoop, status: Status, final: Path | None, error: str = "") -> Outcome:
    progress = loop.progress
    seconds = max(progress.training_seconds, 1e-9)
    peak, tokens_per_second = peak_memory_mb(), progress.tokens / seconds
    return Outcome(
        status=status,
        steps=progress.step,
        folder=loop.folder.path,
        final=final,
        train=progress.last_train,
        first_evaluation=progress.first_evaluation,
        last_evaluation=progress.last_evaluation,
        best_evaluation=progress.best_evaluation,
        best_by=loop.recipe.checkpoints.best,
        seconds=loop.wall_seconds,
        pairs_per_second=progress.pairs / seconds,
        tokens_per_second=tokens_per_second,
        peak_memory_mb=peak,
        plan=loop.forecast.beside(peak, tokens_per_second) if progress.step else {},
        sections=loop.run.sections,
        how_to_load="" if final is None else loop.adapter.how_to_load(final),
        error=error,
    )


def _failed(
    folder: RunFolder,
    accelerator: Accelerator,
    events: RunEvents,
    loop: RunLoop | None,
    error: BaseException,
) -> Outcome:
    """Leave a failed run's summary, and let loggers close as failed; nothing here may hide ``error``."""
    text = str(error) if isinstance(error, DpotrainError) else f"{type(error).__name__}: {error}".rstrip(": ")
    text = mask(text)
    if loop is None:
        status: Status = "stopped" if isinstance(error, RunStopped) else "failed"
        outcome = Outcome(status=status, steps=0, folder=folder.path, final=None, error=text)
    else:
        outcome = _outcome(loop, "failed", None, error=text)
    try:
        if loop is not None:
            events.run_finished(loop.run, outcome)
    except DpotrainError as second:
        error.add_note(str(second))
    finally:
        _close(folder, accelerator, events, outcome, error)
    return outcome
