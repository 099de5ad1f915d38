"""``summary.json``: an outcome as plain data, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from dpotrain.core.records import Outcome, Status

_PLAN = {"peak_memory_mb_predicted", "peak_memory_mb_measured", "tokens_per_second_measured"}


class _Checked(BaseModel):
    """The core's keys, in the file's order; all others belong to plugins."""

    model_config = ConfigDict(strict=True, extra="allow")

    status: Status
    steps: int = Field(ge=0)
    train: dict[str, float] = {}
    first_evaluation: dict[str, float] = {}
    last_evaluation: dict[str, float] = {}
    best_evaluation: dict[str, float] = {}
    best_by: str = "loss"
    seconds: float = 0.0
    pairs_per_second: float = 0.0
    tokens_per_second: float = 0.0
    peak_memory_mb: float = 0.0
    plan: dict[str, float] = {}
    how_to_load: str = ""
    error: str = ""
    final_step: int | None = None
    checkpoint_step: int | None = None
    final: str | None = None

    @field_validator("best_evaluation")
    @classmethod
    def _of_a_step(cls, evaluation: dict[str, float]) -> dict[str, float]:
        if evaluation and not ("loss" in evaluation and float(evaluation.get("step", 0.5)).is_integer()):
            raise ValueError("it has no loss, or its step is not an integer")
        return evaluation

    @field_validator("plan")
    @classmethod
    def _whole(cls, plan: dict[str, float]) -> dict[str, float]:
        # Earlier versions also predicted the speed.
        if plan and not plan.keys() >= _PLAN:
            raise ValueError(f"keys are missing: {', '.join(sorted(_PLAN - plan.keys()))}")
        return plan


_PLAIN = tuple(name for name in _Checked.model_fields if name != "final")


def to_json(outcome: Outcome) -> dict[str, Any]:
    """Return the file's object; sections that plugins reported stand beside the core's keys."""
    return {
        **{name: getattr(outcome, name) for name in _PLAIN},
        "final": None if outcome.final is None else str(outcome.final),
        **outcome.sections,
    }


def from_json(summary: Any, folder: Path) -> Outcome:
    """Undo :func:`to_json`; raise ValueError for another object."""
    _Checked.model_validate(summary)
    known = {name: summary[name] for name in _PLAIN if name in summary}
    sections = {k: v for k, v in summary.items() if k not in _Checked.model_fields and isinstance(v, dict)}
    final = summary.get("final")
    return Outcome(folder=folder, final=None if final is None else Path(final), sections=sections, **known)
