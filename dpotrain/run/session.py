"""A run from a checked recipe to ``final/`` and ``summary.json``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType
from accelerate.utils import set_seed

from dpotrain.data.plan import BatchPlan
from dpotrain.data.prepare import prepare_data
from dpotrain.engine import attention
from dpotrain.engine.compiling import check_compiler, compile_layers
from dpotrain.engine.dropout import dropout_off, drops_out
from dpotrain.engine.metrics import peak_memory_mb
from dpotrain.engine.optimizer import build_optimizer
from dpotrain.engine.recipe_metrics import RecipeMetrics
from dpotrain.engine.scorer import causal_lm
from dpotrain.engine.trainer import Trainer
from dpotrain.errors import DpotrainError, RunError, RunStopped
from dpotrain.masking import mask
from dpotrain.plugin.events import RunEvents
from dpotrain.plugin.failures import named
from dpotrain.plugin.metric_names import logged_names
from dpotrain.recipe import dump_recipe
from dpotrain.run import summary
from dpotrain.run.assembly import INITIAL, Assembly, costs_of, free_memory_between_phases
from dpotrain.run.atomic import folder_aside
from dpotrain.run.cache_folder import cache_folder
from dpotrain.run.environment import describe
from dpotrain.run.exporting import export
from dpotrain.run.facts import facts, remote_code, title
from dpotrain.run.folder import RunFolder
from dpotrain.run.lock import RunLock
from dpotrain.run.log import LoggedReporter, logging_to
from dpotrain.run.loop import HeldOut, RunLoop
from dpotrain.run.own_files import own_files
from dpotrain.run.peers import waiting_for_others
from dpotrain.run.records import Outcome, Run, Status
from dpotrain.run.reporter import Reporter, SilentReporter
from dpotrain.run.resuming import as_written, check_resumable
from dpotrain.run.signals import StopRequest
from dpotrain.run.sizing import forecast, size_up
from dpotrain.run.unwritable import system_error

if TYPE_CHECKING:
    from dpotrain.engine.scorer import Scorer
    from dpotrain.recipe.recipe import Recipe


#: Said where a run in bfloat16 is computed in float32.
NO_BFLOAT16 = (
    "this processor has no matrix products in bfloat16: float32 takes their place, which is more exact, and holds "
    "weights in 32 bits"
)


#: Seconds that loggers have to close where the run was asked to stop, since who asked may soon kill it, and where a
#: second Ctrl-C asked to stop at once.
HURRY_WHEN_STOPPED = 10.0
HURRY_WHEN_INTERRUPTED = 2.0


def train(recipe: Recipe, *, resume: bool = False, reporter: Reporter | None = None) -> Outcome:
    """Run a recipe and return how it ended.

    Args:
        recipe: what :func:`dpotrain.load_recipe` returned.
        resume: go on with the run in the recipe's folder; where there is none yet, begin.
        reporter: shows the run; a live view on a terminal and plain lines elsewhere unless given.

    Returns:
        The outcome; its status is "stopped" if a signal ended the run after its state was saved.

    Raises:
        DpotrainError: the run failed; its folder holds what was reached, and ``summary.json`` says why. Or it
            finished, and an exporter failed.
    """
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
            person = stack.enter_context(reporter or _default_reporter())
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
    events = RunEvents(recipe, reporter)
    loop: RunLoop | None = None
    try:
        with waiting_for_others():
            loop = _assemble(recipe, folder, accelerator, reporter, stop, events, before)
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
        return named(error, recipe)
    return RunError(
        f"{accelerator.device} is out of memory ({str(error).splitlines()[0]}).\n"
        "Lower training.tokens_per_microbatch or set training.activation_checkpointing = true (neither changes "
        "results),\nor lower data.max_length. With checkpoints, --resume goes on from the last one.\n"
        "dpotrain plan shows what takes how much, and what each remedy would save."
    )


def _assemble(
    recipe: Recipe,
    folder: RunFolder,
    accelerator: Accelerator,
    reporter: Reporter,
    stop: StopRequest,
    events: RunEvents,
    before: Mapping[str, Any] | None,
) -> RunLoop:
    """Bring up everything a run needs, in the order that keeps the least in memory."""
    if recipe.training.compile:
        check_compiler(accelerator.device.type)
    set_seed(recipe.seed)
    with reporter.phase("loading the tokenizer", None):
        tokenizer = recipe.model.load_tokenizer()
    cache = cache_folder(recipe.run.cache_dir)
    data = prepare_data(recipe, tokenizer, reporter, cache=cache)
    for line in data.report.changes():
        reporter.note(line)
    if accelerator.is_main_process:
        folder.write_environment(describe(recipe, accelerator.num_processes))
        folder.write_data_report(data.report)

    shared = recipe.reference.store or (None if cache is None else cache / "reference")
    assembly = Assembly(recipe, accelerator, data, reporter, folder.reference, shared, before is not None)
    if assembly.precision != recipe.training.precision:
        reporter.note(NO_BFLOAT16)
    references = assembly.other_reference()
    adapter = assembly.adapter
    policy = assembly.load_policy(adapter)
    scorer = assembly.scorer(policy, "the policy")
    costs = costs_of(data.train, padded=not scorer.packs)
    with reporter.phase("measuring memory", None):
        sizing = size_up(
            recipe, accelerator, scorer, data.train, costs, before, assembly.second_copy_to_come(references)
        )
    if recipe.training.compile:
        compile_layers(policy)
    plan = BatchPlan(
        costs=costs,
        seed=recipe.seed,
        pairs_per_step=recipe.training.pairs_per_step,
        tokens_per_microbatch=sizing.fit.tokens,
        epochs=recipe.training.epochs,
        max_steps=recipe.training.steps,
        ranks=accelerator.num_processes,
        shuffle=recipe.data.shuffle,
    )
    if references is None:
        references = assembly.initial_reference(scorer, adapter, sizing.fit.tokens)

    free_memory_between_phases()
    optimizer = build_optimizer(recipe.optimizer, policy)
    wrapped, prepared = accelerator.prepare(scorer, optimizer, device_placement=[False, False])
    # From here on every rank draws its own dropout.
    set_seed(recipe.seed + 1 + accelerator.process_index)
    # Dropout in an adapter that is not fresh moves the policy, and not the reference.
    known = recipe.reference.of == INITIAL and not drops_out(policy)
    first_loss = recipe.loss.first_loss() if known else None
    trainer = Trainer(
        accelerator=accelerator,
        scorer=wrapped,
        optimizer=prepared,
        loss=recipe.loss,
        plan=plan,
        data=data.train,
        reference=references.train,
        schedule=recipe.schedule,
        peak_learning_rate=recipe.optimizer.options.lr,
        max_grad_norm=recipe.training.max_grad_norm,
        precision=assembly.precision,
        first_loss=first_loss,
        note=reporter.note,
        extra=RecipeMetrics({metric: logged_names(metric, recipe.plugins) for metric in recipe.metrics}),
    )
    held_out = None
    if data.evaluation is not None:
        held_out = HeldOut(
            data.evaluation,
            references.evaluation,
            costs_of(data.evaluation, padded=not scorer.packs),
            assembly.budget_without_gradients,
        )
    run = Run(
        folder=folder.path,
        config=recipe.document,
        policy=policy,
        tokenizer=tokenizer,
        device=accelerator.device,
        seed=recipe.seed,
        total_steps=plan.total_steps,
        train_pairs=len(data.train),
        eval_pairs=0 if data.evaluation is None else len(data.evaluation),
        is_main_process=accelerator.is_main_process,
        note=reporter.note,
        inference=lambda: _inference(scorer),
        plugins=recipe.plugins.provenance(recipe),
    )
    code = remote_code(recipe)
    if code:
        run.report("remote code", {"allowed": code})
    foretold = forecast(sizing, recipe, plan, data.train, accelerator.device, references.live)
    reporter.started(
        title(recipe),
        facts(recipe, data, scorer, plan, sizing, foretold, accelerator, folder),
    )
    return RunLoop(
        recipe,
        folder,
        run,
        trainer,
        scorer,
        adapter,
        held_out,
        events,
        reporter,
        stop,
        sizing,
        foretold,
        assembly.widened,
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
                "Make room or mend the permissions; --resume then goes on from the last checkpoint."
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


@contextmanager
def _inference(scorer: Scorer) -> Iterator[None]:
    device = next(scorer.parameters()).device.type
    with (
        torch.no_grad(),
        dropout_off(scorer),
        torch.autocast(device, torch.bfloat16, enabled=scorer.bf16),
    ):
        yield


def _default_reporter() -> Reporter:
    from dpotrain.ui import reporter

    return reporter()
