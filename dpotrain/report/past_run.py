"""A run read back from its folder: one object, whatever of its files is there."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dpotrain.core import summary
from dpotrain.core.errors import RunError
from dpotrain.core.records import Outcome, Record, Sample, SamplesRecord
from dpotrain.data.report import DataReport
from dpotrain.report.margins import PairMargins, read_margins
from dpotrain.report.run_files import RunFiles, integer_of, text_of
from dpotrain.report.run_state import State, state_of
from dpotrain.run.checkpoint.files import NAME
from dpotrain.run.folder.metrics_file import MetricsFile
from dpotrain.run.folder.run_folder import RunFolder, no_run_folder

#: Damaged lines of the metrics file that are named one by one.
_MOST_PROBLEMS = 5


@dataclass(frozen=True, slots=True)
class PastRun:
    """A run that runs, has ended or was killed. What its folder lacks is empty here."""

    path: Path
    state: State
    recipe: Mapping[str, Any]
    """The resolved recipe, as plain data."""
    recipe_text: str
    status: Mapping[str, Any]
    """``status.json``: what the run was doing when it last said so."""
    outcome: Outcome | None
    """``summary.json``; None while the run is running, and where it was killed."""
    records: tuple[Record, ...]
    samples: tuple[SamplesRecord, ...]
    texts: Mapping[str, int]
    """How many tables of texts callbacks logged, by name."""
    margins: PairMargins
    data: DataReport | None
    environment: Mapping[str, Any]
    checkpoints: tuple[int, ...]
    """Steps of the checkpoints, by their names alone."""
    problems: tuple[str, ...]
    """Files and lines that cannot be read, as text."""

    @property
    def train(self) -> list[Record]:
        """The train records."""
        return [record for record in self.records if record.kind == "train"]

    @property
    def evaluations(self) -> list[Record]:
        """The eval records."""
        return [record for record in self.records if record.kind == "eval"]

    @property
    def step(self) -> int:
        """The last step that is known."""
        return last_step(self.outcome, self.status, self.records)

    @property
    def total_steps(self) -> int | None:
        """All steps of the run; None where they are not known."""
        return positive(self.status, "total_steps") or (
            self.outcome.steps if self.outcome is not None and self.state == "finished" else None
        )

    @property
    def model(self) -> str:
        """What was trained, as the recipe names it; of a folder its last name."""
        return model_of(self.recipe)


def read_run(path: Path) -> PastRun:
    """Read a run folder. Nothing in it is changed, so the run may be running.

    Raises:
        RecipeError: ``path`` is not a run folder.
    """
    folder, files = RunFolder(path), RunFiles()
    if not is_run_folder(path):
        raise no_run_folder(path, "metrics.jsonl" if folder.recipe.is_file() else "recipe.toml")
    text = files.text(folder.recipe)
    status, outcome = files.json(folder.status), read_outcome(folder, files)
    return PastRun(
        path=path,
        state=state_of(outcome, status),
        recipe=files.toml(folder.recipe),
        recipe_text=text,
        status=status,
        outcome=outcome,
        records=tuple(_records(folder.metrics, files)),
        samples=tuple(line for line in files.lines(folder.samples, _samples_of) if line is not None),
        texts=Counter(filter(None, files.lines(folder.texts, lambda line: text_of(line, "name")))),
        margins=read_margins(folder.evaluations, files),
        data=_data_report(folder.data_report, files),
        environment=files.json(folder.environment),
        checkpoints=checkpoints_of(folder),
        problems=tuple(files.problems),
    )


def is_run_folder(path: Path) -> bool:
    """Whether a run began here, as far as its files say."""
    folder = RunFolder(path)
    own = (folder.recipe, folder.status, folder.log)
    written = (folder.checkpoints, folder.metrics, folder.status, folder.summary)
    return any(each.is_file() for each in own) and any(each.exists() for each in written)


def read_outcome(folder: RunFolder, files: RunFiles) -> Outcome | None:
    """Return how the run ended, by its summary."""
    values = files.json(folder.summary)
    if not values:
        return None
    try:
        outcome = summary.from_json(values, folder.path)
    except (TypeError, ValueError, OverflowError, AttributeError, RecursionError):
        files.problems.append(f"{folder.summary.name} is damaged: skipped")
        return None
    # A run folder may have been moved, or copied from elsewhere.
    if outcome.final is not None and not outcome.final.exists() and folder.final.is_dir():
        loading = outcome.how_to_load.replace(str(outcome.final), str(folder.final))
        outcome = replace(outcome, final=folder.final, how_to_load=loading)
    return outcome


def checkpoints_of(folder: RunFolder) -> tuple[int, ...]:
    """Return the steps of the checkpoints, oldest first."""
    try:
        names = [NAME.fullmatch(path.name) for path in folder.checkpoints.iterdir()]
    except OSError:
        return ()
    return tuple(sorted(int(named[1]) for named in names if named))


def last_step(outcome: Outcome | None, status: Mapping[str, Any], last: Sequence[Record]) -> int:
    """Return the last step that summary, status or the last record knows of."""
    known = [record.step for record in last]
    known += [] if outcome is None else [outcome.steps]
    return max([*known, positive(status, "step") or 0])


def model_of(recipe: Mapping[str, Any]) -> str:
    """Return the name of the model of a recipe, or of its loader; of a folder its last name."""
    table = recipe.get("model")
    table = table if isinstance(table, dict) else {}
    name = table.get("name", table.get("use"))
    if not isinstance(name, str):
        return ""
    return Path(name).name if Path(name).is_absolute() or name.startswith(".") else name


def positive(values: Mapping[str, Any], key: str) -> int | None:
    """Return a positive integer of a file's object; None where there is none."""
    value = values.get(key)
    return value if type(value) is int and 0 < value < 2**53 else None


def _records(path: Path, files: RunFiles) -> list[Record]:
    """Return the records in order, their numbers as floats."""
    if not path.exists():
        return []
    found: list[Record] = []
    damaged: list[str] = []
    try:
        for line in MetricsFile(path).read():
            if isinstance(line, Record):
                found.append(Record(line.kind, line.step, {k: _float(v) for k, v in line.metrics.items()}))
            elif not line.endswith("cut short"):
                damaged.append(line.removeprefix(f"{path.parent}/"))
    except RunError as error:
        damaged.append(str(error))
    files.problems += damaged[:_MOST_PROBLEMS]
    if len(damaged) > _MOST_PROBLEMS:
        files.problems.append(f"{path.name}: {len(damaged) - _MOST_PROBLEMS} more damaged lines")
    return found


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        return math.nan


def _samples_of(values: dict[str, Any]) -> SamplesRecord:
    samples = [Sample(text_of(each, "prompt"), text_of(each, "answer")) for each in values["samples"]]
    return SamplesRecord(integer_of(values, "step"), samples)


def _data_report(path: Path, files: RunFiles) -> DataReport | None:
    values = files.json(path)
    if not values:
        return None
    try:
        report = DataReport.restored(values)
        lines = [*report.summary_lines(), *report.warnings()]  # what is shown of it
        if not all(isinstance(line, str) for line in lines):
            raise TypeError(lines)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, ZeroDivisionError):
        files.problems.append(f"{path.name} is damaged or of an earlier version: skipped")
        return None
    return report
