"""All runs below a folder, a line each; of every run only what the line shows is read."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from dpotrain.core.errors import RecipeError
from dpotrain.core.records import Outcome, Record
from dpotrain.core.statistics import wilson
from dpotrain.report.past_run import is_run_folder, last_step, model_of, positive, read_outcome
from dpotrain.report.run_files import RunFiles
from dpotrain.report.run_state import State, state_of
from dpotrain.run.folder.run_folder import RunFolder

Order = Literal["age", "name", "state", "step", "model", "loss", "accuracy", "duration"]

#: Bytes of the end of a metrics file in which the last records are looked for first.
_TAIL = 2**16


@dataclass(frozen=True, slots=True)
class ListedRun:
    """One run of a listing. Numbers that are not known are not a number."""

    path: Path
    state: State
    step: int
    total_steps: int | None
    model: str
    train_loss: float
    """Of the last train record."""
    loss: float
    """Of the last evaluation, as the accuracy is."""
    accuracy: float
    pairs: float
    """Pairs of the evaluation; 0 where they are not known."""
    updated: float
    """When the run last wrote something, in seconds since 1970."""
    seconds: float
    """How long the run has taken, over all resumptions; of a running or killed one, the last process alone."""

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of the accuracy."""
        return wilson(self.accuracy, self.pairs)

    def as_json(self) -> dict[str, Any]:
        """Return plain data; what is not known is null."""
        low, high = self.interval
        return {
            "path": str(self.path), "state": self.state, "step": self.step, "total_steps": self.total_steps,
            "model": self.model, "train_loss": known(self.train_loss), "loss": known(self.loss),
            "accuracy": known(self.accuracy), "accuracy_low": known(low), "accuracy_high": known(high),
            "pairs": int(self.pairs) or None, "updated": self.updated, "seconds": known(self.seconds),
        }  # fmt: skip


def known(value: float) -> float | None:
    """Return a number as JSON has it: null where it is not finite."""
    return value if math.isfinite(value) else None


def list_runs(folder: Path, order: Order = "age") -> list[ListedRun]:
    """Return the runs in and below ``folder``, the newest first, or the highest of ``order``; names and models by name.

    Raises:
        RecipeError: there is no such folder.
    """
    if not folder.is_dir():
        raise RecipeError(f"{folder} is not a folder.\nName a folder with runs in it, such as runs/.")
    runs = sorted(map(list_run, run_folders(folder)), key=lambda run: (-run.updated, str(run.path)))
    if order in ("name", "state", "model"):
        return sorted(runs, key=lambda run: str(run.path if order == "name" else getattr(run, order)))
    if order != "age":
        number = "seconds" if order == "duration" else order
        lowest_first = 1 if order == "loss" else -1
        return sorted(runs, key=lambda run: _last_if_unknown(lowest_first * float(getattr(run, number))))
    return runs


def run_folders(folder: Path) -> Iterator[Path]:
    """Yield the run folders in and below a folder; nothing inside one is looked at."""
    for path, names, _ in os.walk(folder):
        here = Path(path)
        if is_run_folder(here):
            names.clear()
            yield here
        names[:] = [name for name in names if not name.startswith(".")]


def list_run(path: Path) -> ListedRun:
    """Return the line of one run folder."""
    folder, files = RunFolder(path), RunFiles()
    outcome, status = read_outcome(folder, files), files.json(folder.status)
    train, evaluation = _last_records(folder.metrics)
    last = [record for record in (train, evaluation) if record is not None]
    recipe = files.toml(folder.recipe)
    of_train = {} if train is None else train.metrics
    of_evaluation = {} if evaluation is None else evaluation.metrics
    state = state_of(outcome, status)
    step = last_step(outcome, status, last)
    total = positive(status, "total_steps")
    return ListedRun(
        path=path,
        state=state,
        step=step,
        total_steps=step if total is None and state == "finished" else total,
        model=model_of(recipe),
        train_loss=of_train.get("loss", math.nan),
        loss=of_evaluation.get("loss", math.nan),
        accuracy=of_evaluation.get("rewards/accuracies", math.nan),
        pairs=of_evaluation.get("pairs", 0.0) or _held_out(files.json(folder.data_report)),
        updated=_updated(folder, status),
        seconds=_seconds(outcome, status, state),
    )


def _held_out(data_report: Mapping[str, Any]) -> float:
    """Return the pairs of the evaluation set; a run of an earlier version does not log how many it scored."""
    pairs = data_report.get("pairs")
    held_out = pairs.get("evaluation") if isinstance(pairs, dict) else None
    return float(held_out) if type(held_out) is int and 0 < held_out < 2**53 else 0.0


def _last_if_unknown(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _updated(folder: RunFolder, status: Mapping[str, Any]) -> float:
    times = [0.0]
    for path in (folder.metrics, folder.summary, folder.log, folder.recipe):
        try:
            times.append(path.stat().st_mtime)
        except OSError:
            continue
    return max([*times, *_time(status, "updated")])


def _seconds(outcome: Outcome | None, status: Mapping[str, Any], state: State) -> float:
    if outcome is not None:
        return outcome.seconds
    began, updated = _time(status, "began"), _time(status, "updated")
    if not began or not updated:
        return math.nan
    return max(0.0, (time.time() if state == "running" else updated[0]) - began[0])


def _time(status: Mapping[str, Any], key: str) -> list[float]:
    value: Any = status.get(key)
    return [float(value)] if type(value) in (int, float) and 0 < value < 2**53 else []


def _last_records(path: Path) -> tuple[Record | None, Record | None]:
    """Return the last train record and the last eval record, read from the end of the file."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - _TAIL))
            found = _last_of(file.read())
            if None in found and size > _TAIL:
                file.seek(0)
                found = _last_of(file.read())
    except OSError:
        return None, None
    return found


def _last_of(content: bytes) -> tuple[Record | None, Record | None]:
    last: dict[str, Record] = {}
    for line in reversed(content.split(b"\n")):
        # Most lines are of the one kind that is already known: they are not parsed.
        if len(last) == 2 or any(b'"kind": "%s"' % kind.encode() in line for kind in last):
            continue
        try:
            values = json.loads(line)
            kind, step = values.pop("kind"), values.pop("step")
            if kind in ("train", "eval") and type(step) is int and step >= 0:
                numbers = {key: float(value) for key, value in values.items() if value is not None}
                last[kind] = Record(kind, step, numbers)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError):
            continue
    return last.get("train"), last.get("eval")


ORDERS: tuple[str, ...] = get_args(Order)
