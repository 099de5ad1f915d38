"""A run as plain data, for programs."""

from __future__ import annotations

from typing import Any

from dpotrain.core.records import Record
from dpotrain.report.comparison import finite, interval_of
from dpotrain.report.facts import facts
from dpotrain.report.margins import Course, movement
from dpotrain.report.past_run import PastRun


def run_as_json(run: PastRun) -> dict[str, Any]:
    """Return all that is known of a run; numbers that are not finite are null."""
    outcome = run.outcome
    return {
        "path": str(run.path),
        "state": run.state,
        "step": run.step,
        "total_steps": run.total_steps,
        "facts": facts(run),
        "error": "" if outcome is None else outcome.error,
        "seconds": None if outcome is None else finite({"": outcome.seconds})[""],
        "final": None if outcome is None or outcome.final is None else str(outcome.final),
        "how_to_load": "" if outcome is None else outcome.how_to_load,
        "best_evaluation": None if outcome is None else finite(outcome.best_evaluation),
        "evaluations": [_evaluation(run, record) for record in run.evaluations],
        "train": [{"step": record.step, **finite(record.metrics)} for record in run.train],
        "pairs": _pairs(run),
        "samples": [record.as_json() for record in run.samples],
        "texts": dict(run.texts),
        "data": None
        if run.data is None
        else {"summary": run.data.summary_lines(), "warnings": run.data.warnings()},
        "recipe": dict(run.recipe),
        "environment": dict(run.environment),
        "checkpoints": list(run.checkpoints),
        "problems": list(run.problems),
    }


def _evaluation(run: PastRun, record: Record) -> dict[str, Any]:
    low, high = interval_of(run, record)
    return {
        "step": record.step,
        **finite(record.metrics),
        "accuracy_interval": [finite({"": bound})[""] for bound in (low, high)],
    }


def _pairs(run: PastRun) -> dict[str, Any] | None:
    moved = movement(run.margins)
    if moved is None:
        return None

    def listed(courses: tuple[Course, ...]) -> list[dict[str, Any]]:
        return [
            {
                **({"source": course.pair.source} if course.pair.source else {}),
                "row": course.pair.row,
                "margins": list(course.margins),
            }
            for course in courses
        ]

    return {
        "pairs": moved.count,
        "steps": list(run.margins.steps),
        "always_wrong": listed(moved.always_wrong),
        "became_right": listed(moved.became_right),
        "became_wrong": listed(moved.became_wrong),
        "unsteady": listed(moved.unsteady),
    }
