"""What loggers share: the run's id at a tracker, names of metrics, closing numbers, texts about plugins.

Train metrics keep their names, those of evaluations stand under ``eval/``; the axis is the optimizer step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dpotrain.plugin.api import Outcome, Record, TextRecord


def kept_id(path: Path, make: Callable[[], str]) -> str:
    """Return the id that the run has at a tracker, kept in the file ``path``, where ``make`` makes it on first use."""
    if path.exists() and (kept := path.read_text(encoding="utf-8").strip()):
        return kept
    made = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(made + "\n", encoding="utf-8")
    return made


def named(record: Record) -> dict[str, float]:
    """Return a record's metrics under the names that trackers show: those of evaluations under ``eval/``."""
    prefix = "eval/" if record.kind == "eval" else ""
    return {prefix + name: value for name, value in record.metrics.items()}


def plugin_text(plugin: Mapping[str, Any]) -> str:
    """Return the distribution, version and selected components of a plugin that ran."""
    return f"{plugin['distribution']} {plugin['version']}: {', '.join(plugin['selected'])}"


def closing_numbers(outcome: Outcome, prefix: str = "") -> dict[str, float]:
    """Return the outcome's numbers, named behind ``prefix``; no texts, which may quote the data."""
    names = ("steps", "seconds", "pairs_per_second", "tokens_per_second", "peak_memory_mb")
    values: dict[str, float] = {name: getattr(outcome, name) for name in names}
    evaluations = {"eval_first": outcome.first_evaluation, "eval_best": outcome.best_evaluation}
    for group, metrics in (evaluations | dict(outcome.sections)).items():
        values |= {
            f"{group}/{name}": value for name, value in metrics.items() if isinstance(value, int | float)
        }
    return {prefix + name: value for name, value in values.items()}


def cells(record: TextRecord) -> list[list[str | float]]:
    """Return the rows of a table of texts as lists, in the order of its columns."""
    return [[row[column] for column in record.columns] for row in record.rows]
