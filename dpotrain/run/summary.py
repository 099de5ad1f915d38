"""``summary.json``: an outcome as plain data, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dpotrain.run.records import Outcome

_PLAIN = (
    "status",
    "steps",
    "train",
    "first_evaluation",
    "last_evaluation",
    "best_evaluation",
    "best_by",
    "seconds",
    "pairs_per_second",
    "tokens_per_second",
    "peak_memory_mb",
    "plan",
    "how_to_load",
    "error",
)


def to_json(outcome: Outcome) -> dict[str, Any]:
    """Return the file's object; what plugins reported stands beside the core's keys, under each section's name."""
    return {
        **{name: getattr(outcome, name) for name in _PLAIN},
        "final": None if outcome.final is None else str(outcome.final),
        **outcome.sections,
    }


def from_json(summary: dict[str, Any], folder: Path) -> Outcome:
    """Undo :func:`to_json`."""
    known = {name: summary[name] for name in _PLAIN if name in summary}
    sections = {
        name: value
        for name, value in summary.items()
        if name not in _PLAIN and name != "final" and isinstance(value, dict)
    }
    final = summary.get("final")
    return Outcome(folder=folder, final=None if final is None else Path(final), sections=sections, **known)
