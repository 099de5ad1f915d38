"""What the loggers that send a run to a tracker have in common: its id there, and its closing numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dpotrain.plugin.api import Outcome, Record


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


def closing_numbers(outcome: Outcome) -> dict[str, float]:
    """Return the outcome's numbers. What plugins reported may quote the data, so only numbers are taken."""
    values: dict[str, float] = {
        "steps": outcome.steps,
        "seconds": outcome.seconds,
        "pairs_per_second": outcome.pairs_per_second,
        "tokens_per_second": outcome.tokens_per_second,
        "peak_memory_mb": outcome.peak_memory_mb,
    }
    evaluations: dict[str, Mapping[str, float]] = {
        "eval_first": outcome.first_evaluation,
        "eval_best": outcome.best_evaluation,
    }
    for prefix, metrics in (evaluations | dict(outcome.sections)).items():
        values |= {
            f"{prefix}/{name}": value for name, value in metrics.items() if isinstance(value, int | float)
        }
    return values
