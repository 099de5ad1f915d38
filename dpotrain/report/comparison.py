"""Several runs side by side: how recipes and results differ, and which numbers of them compare at all."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpotrain.core.records import Record
from dpotrain.core.statistics import wilson
from dpotrain.report.margins import Paired, paired
from dpotrain.report.past_run import PastRun

#: Keys of a recipe that say where a run wrote, not what it did.
_PLACES = ("run.output_dir", "run.cache_dir")
#: What gives the same loss and the same rewards only where it is the same.
_SCALES = ("loss", "reference")
#: Numbers of the last evaluation that are compared, without which a run has none.
FIGURES = ("loss", "rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected")


@dataclass(frozen=True, slots=True)
class Difference:
    """A key with a value that differs between runs."""

    key: str
    values: tuple[Any, ...]
    """One for each run; None where a run lacks the key."""


@dataclass(frozen=True, slots=True)
class PairedRuns:
    """A run and the first one, pair by pair."""

    first: int
    second: int
    """Positions of the two runs."""
    counts: Paired


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs side by side."""

    runs: tuple[PastRun, ...]
    names: tuple[str, ...]
    """A short name for each run, no two the same."""
    recipe: tuple[Difference, ...]
    environment: tuple[Difference, ...]
    evaluations: tuple[Record | None, ...]
    """The last evaluation of each run."""
    pairs: tuple[PairedRuns, ...]
    """Each later run with the first, where they share held-out pairs."""
    caveats: tuple[str, ...]
    """What keeps numbers of these runs from being compared."""

    def as_json(self) -> dict[str, Any]:
        """Return plain data; numbers that are not finite are null."""

        def differences(of: Sequence[Difference]) -> dict[str, list[Any]]:
            return {each.key: list(each.values) for each in of}

        return {
            "runs": [
                {
                    "name": name, "path": str(run.path), "state": run.state, "step": run.step,
                    "evaluation": None if last is None else finite(last.metrics) | {"step": last.step},
                    "accuracy_interval": [*map(_known, interval_of(run, last))],
                }
                for name, run, last in zip(self.names, self.runs, self.evaluations, strict=True)
            ],
            "recipe": differences(self.recipe),
            "environment": differences(self.environment),
            "paired": [
                {
                    "first": self.names[each.first], "second": self.names[each.second],
                    "pairs": each.counts.count, "both_right": each.counts.both_right,
                    "only_first_right": each.counts.only_first, "only_second_right": each.counts.only_second,
                    "both_wrong": each.counts.both_wrong, "p_value": each.counts.p_value,
                    "same_evaluation_set": each.counts.same_set,
                }
                for each in self.pairs
            ],
            "caveats": list(self.caveats),
        }  # fmt: skip


def compare(runs: Sequence[PastRun]) -> Comparison:
    """Compare runs; the first is what the others are compared with."""
    runs = tuple(runs)
    recipe = differences([_flat(run.recipe) for run in runs], leave_out=_PLACES)
    pairs = [
        PairedRuns(0, number, counts)
        for number, run in enumerate(runs)
        if number and (counts := paired(runs[0].margins, run.margins)) is not None
    ]
    names = short_names([run.path for run in runs])
    return Comparison(
        runs=runs,
        names=names,
        recipe=recipe,
        environment=differences([_software(run.environment) for run in runs]),
        evaluations=tuple(run.evaluations[-1] if run.evaluations else None for run in runs),
        pairs=tuple(pairs),
        caveats=tuple(_caveats(runs, names, recipe, pairs)),
    )


def pairs_of(run: PastRun, evaluation: Record | None) -> float:
    """Return how many pairs an evaluation scored; 0 where that is not known."""
    if evaluation is None:
        return 0.0
    held_out = run.data.evaluation_pairs if run.data is not None else None
    pairs = evaluation.metrics.get("pairs", held_out or 0)
    return float(pairs) if isinstance(pairs, int | float) and 0 < pairs < 2**53 else 0.0


def interval_of(run: PastRun, evaluation: Record | None) -> tuple[float, float]:
    """Return the 95 % Wilson interval of an evaluation's accuracy; not a number where it is not known."""
    if evaluation is None:
        return math.nan, math.nan
    accuracy = evaluation.metrics.get("rewards/accuracies", math.nan)
    return wilson(accuracy, pairs_of(run, evaluation)) if 0 <= accuracy <= 1 else (math.nan, math.nan)


def short_names(paths: Sequence[Path]) -> tuple[str, ...]:
    """Return the paths without the folders that all share; numbered where a path comes twice."""
    whole = [path.absolute() for path in paths]
    try:
        common = Path(os.path.commonpath([path.parent for path in whole]))
        names = [path.relative_to(common).as_posix() for path in whole]
    except ValueError:  # on different drives
        names = [str(path) for path in whole]
    return tuple(
        name if names.count(name) == 1 else f"{name} ({names[: number + 1].count(name)})"
        for number, name in enumerate(names)
    )


def differences(tables: Sequence[Mapping[str, Any]], leave_out: Sequence[str] = ()) -> tuple[Difference, ...]:
    """Return the keys whose values differ, in the order in which the tables have them."""
    keys = dict.fromkeys(key for table in tables for key in table)
    rows = (
        Difference(key, tuple(table.get(key) for table in tables)) for key in keys if key not in leave_out
    )
    return tuple(row for row in rows if any(value != row.values[0] for value in row.values))


def finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Return metrics as JSON has them: null for what is not finite."""
    return {name: _known(value) for name, value in metrics.items()}


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the keys of nested tables with dots: ``training.epochs``."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


def _software(environment: Mapping[str, Any]) -> dict[str, Any]:
    packages = environment.get("packages")
    return {
        **{key: environment[key] for key in ("devices", "processes", "python") if key in environment},
        **(packages if isinstance(packages, dict) else {}),
    }


def _caveats(
    runs: Sequence[PastRun], names: Sequence[str], recipe: Sequence[Difference], pairs: Sequence[PairedRuns]
) -> Iterator[str]:
    for run, name in zip(runs, names, strict=True):
        if run.state != "finished":
            yield f"{name} is {run.state}: its numbers are of step {run.step:,}, not of a whole run."
    if len({repr(_training_data(run)) for run in runs}) > 1:
        yield "The training data differs, so the runs differ in more than their recipes' other keys."
    scales = [row.key for row in recipe if row.key.split(".")[0] in _SCALES]
    if scales:
        yield (
            f"{', '.join(scales)} differ{'s' * (len(scales) == 1)}: losses, rewards and margins are on other scales "
            "and do not compare. Accuracies do, where the reference is the same."
        )
    compared = {each.second: each.counts for each in pairs}
    for number in range(1, len(runs)):
        both = f"{names[0]} and {names[number]}"
        if number in compared and not compared[number].same_set:
            yield (
                f"The evaluation sets of {both} differ, so their accuracies do not compare; "
                f"the {compared[number].count:,} pairs that both scored do."
            )
        elif number not in compared:
            yield from _not_paired(runs[0], runs[number], both)


def _not_paired(first: PastRun, second: PastRun, both: str) -> Iterator[str]:
    """Say why two runs are not compared pair by pair."""
    if not (first.evaluations and second.evaluations):
        yield f"{both} cannot be compared on held-out pairs: one of them has no evaluation."
    elif first.margins.pairs and second.margins.pairs:
        if set(first.margins.pairs).isdisjoint(second.margins.pairs):
            yield f"The evaluation sets of {both} share no pair: their evaluations do not compare."
    elif _held_out(first) != _held_out(second):
        yield f"The evaluation sets of {both} differ: their evaluations do not compare."


def _training_data(run: PastRun) -> tuple[Any, ...]:
    if run.data is None:
        return (None,)
    return run.data.fingerprints, run.data.train_pairs, run.data.limits, run.data.format


def _held_out(run: PastRun) -> tuple[Any, ...]:
    data = run.recipe.get("data")
    table = data if isinstance(data, dict) else {}
    keys = ("eval_split", "eval_fraction")
    fingerprints = None if run.data is None else run.data.fingerprints
    held_out = None if run.data is None else run.data.evaluation_pairs
    return fingerprints, held_out, run.recipe.get("seed"), [table.get(key) for key in keys]
