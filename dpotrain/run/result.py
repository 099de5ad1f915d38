"""What a run leaves at its end: ``final/``, and the outcome that ``summary.json`` holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dpotrain.core.atomic import folder_aside
from dpotrain.core.errors import RunError, describe_exception
from dpotrain.core.model_card import model_card
from dpotrain.core.records import Outcome, Status
from dpotrain.core.write_errors import system_error
from dpotrain.engine.attention import packed
from dpotrain.engine.scoring.scorer import causal_lm
from dpotrain.engine.training.metrics import peak_memory_mb
from dpotrain.plugin.api.returns import WrongReturnError
from dpotrain.run.building.build import BuiltRun
from dpotrain.run.checkpoint.best import load_best
from dpotrain.run.checkpoint.files import complete, step_of
from dpotrain.run.folder.run_folder import RunFolder
from dpotrain.run.how_to_load import how_to_load


def save_result(built: BuiltRun, final: Path) -> Path:
    """Write what a user takes away, aside first, and return its folder. Collective; the main process writes.

    Raises:
        RunError: it cannot be written; nothing half-written is left under its name.
    """
    run, parallel = built.context.run, built.context.trainer.parallel
    built.context.state.final_step = load_best(built.loop.checkpoints)
    packed.uninstall(causal_lm(run.policy))
    with parallel.whole(built.adapter, run.policy):
        if parallel.is_main:
            try:
                with folder_aside(final) as aside, built.upcast_weights.as_loaded():
                    built.adapter.save(run.policy, aside)
                    if not any(aside.iterdir()):
                        raise WrongReturnError(
                            "save wrote no file into the folder that it was given", built.adapter
                        )
                    _save_tokenizer(built, aside)
                    _save_card(built, aside)
            except Exception as error:
                if (said := system_error(error)) is None:
                    raise
                raise RunError(
                    f"training is done, but {final} cannot be written: {said}.\n"
                    "Free disk space or fix the permissions; --resume then continues from the last checkpoint."
                ) from error
    parallel.wait()
    return final


def _save_tokenizer(built: BuiltRun, folder: Path) -> None:
    """Save the tokenizer beside the weights, which are kept also where it cannot be saved."""
    try:
        built.context.run.tokenizer.save_pretrained(folder)
    except Exception as error:
        if system_error(error) is not None:
            raise
        built.context.reporter.warn(
            f"the tokenizer cannot be saved, and final/ holds the weights alone: {describe_exception(error)}\n"
            "Copy the tokenizer's files there from the model that was trained."
        )


def _save_card(built: BuiltRun, folder: Path) -> None:
    """Write what was trained, how and with which result beside the weights; peft leaves a form to fill in there."""
    context = built.context
    said = how_to_load(built.adapter.how_to_load(folder), folder, context.run.tokenizer)
    card = model_card(
        context.run.folder,
        context.recipe.document,
        replace(outcome_of(built, "finished", None), final_step=context.state.final_step),
        name=context.run.folder.absolute().name,
        adapter=(folder / "adapter_config.json").is_file(),
        how_to_load=said.replace(str(folder), "final"),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def outcome_of(built: BuiltRun, status: Status, final: Path | None, error: str = "") -> Outcome:
    """Return how a run ended, by its state now."""
    state, run = built.context.state, built.context.run
    progress = state.progress
    seconds = max(progress.training_seconds, 1e-9)
    peak, tokens_per_second = peak_memory_mb(), progress.tokens / seconds
    return Outcome(
        status=status,
        steps=progress.step,
        folder=run.folder,
        final=final,
        final_step=None if final is None else state.final_step,
        train=progress.last_train,
        first_evaluation=progress.first_evaluation,
        last_evaluation=progress.last_evaluation,
        best_evaluation=progress.best_evaluation,
        best_by=built.context.recipe.checkpoints.best,
        seconds=state.wall_seconds(),
        pairs_per_second=progress.pairs / seconds,
        tokens_per_second=tokens_per_second,
        peak_memory_mb=peak,
        plan={
            "peak_memory_mb_predicted": built.predicted_peak_mb,
            "peak_memory_mb_measured": peak,
            "tokens_per_second_measured": tokens_per_second,
        }
        if progress.step
        else {},
        sections=run.sections,
        how_to_load=""
        if final is None
        else how_to_load(built.adapter.how_to_load(final), final, run.tokenizer),
        error=error,
        checkpoint_step=max(map(step_of, complete(RunFolder(run.folder).checkpoints)), default=None),
    )
