"""Sending what a run has logged once more: from its metrics file to loggers that missed some of it."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpotrain.core import summary
from dpotrain.core.errors import RecipeError, RunError
from dpotrain.core.records import BestBy, LoggedRun, Outcome, SamplesRecord, TextRecord
from dpotrain.data.batches.plan import steps_of_run
from dpotrain.plugin.api import Logger
from dpotrain.plugin.runtime.failures import failure
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.recipe.files import read_layers
from dpotrain.recipe.loggers import LoggersOfRecipe, load_loggers
from dpotrain.run.folder.lock import RunLock
from dpotrain.run.folder.metrics_file import MetricsFile
from dpotrain.run.folder.run_folder import RunFolder, no_run_folder
from dpotrain.run.folder.text_files import SamplesFile, TextsFile
from dpotrain.run.state import Progress

#: How the best evaluation of a run without a summary is found.
LOWEST_LOSS = BestBy("loss", lowest=True)


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of it."""

    sent: tuple[str, ...]
    """The loggers that took everything, with their plugins."""
    records: int
    last_step: int
    outcome: Outcome
    problems: tuple[str, ...]
    """Loggers that raised, and lines of the files of metrics and samples that are no records."""


def replay(
    path: Path, note: Callable[[str], None], *, overrides: Sequence[str] = (), only: Sequence[str] = ()
) -> Replayed:
    """Start the loggers of a run folder's recipe, give them every record in order, and close them.

    Neither model nor data is needed for it, nor torch, unless a logger needs it. Nothing of the run is changed but
    what the loggers write.

    ``note`` takes what loggers have to say; ``overrides`` are of the recipe, for instance for a logger that it does not
    have; ``only`` is that of :func:`dpotrain.recipe.loggers.load_loggers`.

    Raises:
        RecipeError: there is no run in ``path``, nothing to send, or no logger to send it to.
        RunError: another process is running there, or a file of the run cannot be read.
    """
    folder = RunFolder(path)
    if not path.is_dir() or not folder.recipe.exists():
        raise no_run_folder(path, "recipe.toml")
    if not folder.metrics.exists():
        raise RecipeError(f"{path} has no {folder.metrics.name}: the run has not logged anything yet.")
    chosen = load_loggers(folder.recipe, overrides, only)
    if not chosen.loggers:
        raise RecipeError(
            f"{folder.recipe} has no [[loggers]] that the records could go to.\n"
            f"Name one: dpotrain sync {path} --to wandb"
        )
    with RunLock(path, remedy="Wait for it or end it; then its records can be sent."):
        return _send(folder, chosen, note)


def _send(folder: RunFolder, chosen: LoggersOfRecipe, note: Callable[[str], None]) -> Replayed:
    to = _Recipients(list(chosen.loggers), chosen.plugins)
    to.each("start", "start", _told(folder, chosen, note))
    progress, records, damaged = Progress(), 0, []
    texts: list[TextRecord] = []
    for line in (*SamplesFile(folder.samples).read(), *TextsFile(folder.texts).read()):
        if isinstance(line, str):
            damaged.append(line)
        else:
            texts.append(line.as_text() if isinstance(line, SamplesRecord) else line)
    waiting = deque(sorted(texts, key=lambda text: text.step))
    for found in MetricsFile(folder.metrics).read():
        if isinstance(found, str):
            damaged.append(found)
            continue
        records += 1
        while waiting and waiting[0].step < found.step:
            to.each_text(waiting.popleft())
        progress.step = max(progress.step, found.step)
        if found.kind == "train":
            progress.last_train = dict(found.metrics)
        elif "loss" in found.metrics:
            progress.evaluated(found.step, found.metrics, LOWEST_LOSS)
        to.each("log", f"log of step {found.step}", found)
    while waiting:
        to.each_text(waiting.popleft())
    outcome = _outcome(folder, progress)
    to.each("finish", "finish", outcome)
    sent = tuple(chosen.plugins.label(logger) for logger in to.left)
    return Replayed(sent, records, progress.step, outcome, (*to.failures, *damaged))


@dataclass(slots=True)
class _Recipients:
    """Loggers that are called here and now: a person waits for them, and can end it."""

    left: list[Logger]
    plugins: PluginManager
    failures: list[str] = field(default_factory=list)

    def each_text(self, record: TextRecord) -> None:
        """Send a table of texts."""
        self.each("log_text", f"log_text of {record.name} at step {record.step}", record)

    def each(self, method: str, phase: str, argument: Any) -> None:
        """Call a method of all loggers that have not failed yet."""
        for logger in list(self.left):
            try:
                getattr(logger, method)(argument)
            except Exception as error:
                self.left.remove(logger)
                self.failures.append(
                    failure(self.plugins.label(logger), phase, error, type(logger).__module__)
                )


def _told(folder: RunFolder, chosen: LoggersOfRecipe, note: Callable[[str], None]) -> LoggedRun:
    """Return the run as its loggers saw it at the start, as far as its files say."""
    try:
        pairs = json.loads(folder.data_report.read_text(encoding="utf-8"))["pairs"]
        train, evaluation = int(pairs["train"]), int(pairs["evaluation"] or 0)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(
            f"{folder.data_report} is missing or damaged ({type(error).__name__}: {error})."
        ) from error
    training = chosen.training
    if chosen.evaluation.pairs is not None:
        evaluation = min(evaluation, chosen.evaluation.pairs)
    try:
        plugins = json.loads(folder.environment.read_text(encoding="utf-8"))["plugins"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # a logger can do without
        plugins = ()
    *_, (_, config) = read_layers(folder.recipe)
    return LoggedRun(
        folder=folder.path,
        config=config,
        seed=chosen.seed,
        total_steps=steps_of_run(train, training.pairs_per_step, training.epochs, training.steps),
        train_pairs=train,
        eval_pairs=evaluation,
        plugins=plugins,
        note=note,
    )


def _outcome(folder: RunFolder, progress: Progress) -> Outcome:
    """Return how the run ended by its summary; without one it was killed, and failed where its records end."""
    try:
        return summary.from_json(json.loads(folder.summary.read_text(encoding="utf-8")), folder.path)
    except FileNotFoundError:
        why = "the run was killed: it left no summary"
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        why = f"how the run ended is not known: {folder.summary} is damaged ({type(error).__name__})"
    return Outcome(
        status="failed",
        steps=progress.step,
        folder=folder.path,
        final=None,
        train=progress.last_train,
        first_evaluation=progress.first_evaluation,
        last_evaluation=progress.last_evaluation,
        best_evaluation=progress.best_evaluation,
        error=why,
    )
