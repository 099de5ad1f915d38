"""What stands on a page, as texts: everything that its templates print, already written out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dpotrain.core.formats import count, duration, interval, megabytes, number, rate
from dpotrain.report.comparison import Comparison, Difference, interval_of, pairs_of
from dpotrain.report.facts import facts
from dpotrain.report.margins import Course, movement
from dpotrain.report.past_run import PastRun
from dpotrain.ui.comparison_texts import paired_text, value_text
from dpotrain.ui.figures import FIGURES, accuracy_with_interval, by_source
from dpotrain.ui.judgement import CHOSEN_REWARDS_FALL, chosen_rewards_fall
from dpotrain.ui.page.drawing import RUN_COLOURS, draw_histogram, draw_scatter, sparkline_path
from dpotrain.ui.sections import section_lines, section_table

#: Pairs of a kind, and prompts of samples, that a page shows.
_MOST_PAIRS = 24
_MOST_PROMPTS = 100


def run_of(run: PastRun) -> dict[str, Any]:
    """Return all that a page says of one run."""
    return {
        "name": run.path.absolute().name,
        "tiles": tiles(run),
        "facts": facts(run),
        "error": "" if run.outcome is None else run.outcome.error,
        "how_to_load": "" if run.outcome is None else run.outcome.how_to_load,
        "problems": list(run.problems),
        "evaluations": evaluation_rows(run),
        "by_source": source_rows(run),
        "explanation": _explanation(run),
        "pairs": _pairs(run),
        "sections": _sections(run),
        "data": _data(run),
        "recipe": run.recipe_text.strip(),
        "environment": _environment(run.environment),
    }


def tiles(run: PastRun) -> list[dict[str, str]]:
    """Return the numbers at the top."""
    found = [_tile("state", run.state, _progress(run), css=run.state)]
    if run.evaluations:
        last, first = run.evaluations[-1], run.evaluations[0]
        for figure in FIGURES[:3]:
            if figure.metric not in last.metrics:
                continue
            value, note = last.metrics[figure.metric], ""
            if figure.metric == "rewards/accuracies":
                low, high = interval_of(run, last)
                pairs = pairs_of(run, last)
                note = f"95 %: {interval(low, high)}, {count(round(pairs))} pairs" if pairs else ""
            elif last is not first and figure.metric in first.metrics:
                note = f"{figure.write_change(value - first.metrics[figure.metric])} since step {count(first.step)}"
            found.append(_tile(f"held-out {figure.label}", figure.write(value), note))
    elif run.train:
        found.append(_tile("training loss", number(run.train[-1].metrics.get("loss", math.nan))))
    outcome, train = run.outcome, run.train[-1].metrics if run.train else {}
    if outcome is not None and outcome.seconds:
        found.append(_tile("time", duration(outcome.seconds)))
    speed = outcome.pairs_per_second if outcome else train.get("pairs_per_second", 0.0)
    tokens = outcome.tokens_per_second if outcome else train.get("tokens_per_second", 0.0)
    memory = outcome.peak_memory_mb if outcome else train.get("peak_memory_mb", 0.0)
    if speed > 0:
        found.append(_tile("pairs per second", rate(speed), f"{rate(tokens)} tokens per second"))
    if memory > 0:
        found.append(_tile("peak memory", megabytes(memory)))
    return found


def evaluation_rows(run: PastRun) -> list[dict[str, Any]]:
    """Return the rows of the table of evaluations."""
    best = None if run.outcome is None else run.outcome.best_evaluation.get("step")
    many = len(run.evaluations) > 1
    return [
        {
            "step": count(record.step),
            "best": many and record.step == best,
            "cells": [_written(record.metrics, figure.metric, figure.write) for figure in FIGURES],
            "interval": interval(*interval_of(run, record)),
        }
        for record in run.evaluations
    ]


def source_rows(run: PastRun) -> list[dict[str, Any]]:
    """Return the rows of the last evaluation by the sources of a mixture."""
    found = by_source(run.evaluations[-1].metrics) if run.evaluations else {}
    return [
        {"name": label, "cells": [_written(metrics, figure.metric, figure.write) for figure in FIGURES]}
        for label, metrics in found.items()
    ]


def samples_of(run: PastRun) -> list[dict[str, Any]]:
    """Return each prompt with the answers at every step."""
    found: dict[str, list[tuple[str, str]]] = {}
    for record in run.samples:
        label = "before training" if record.step == 0 else f"step {count(record.step)}"
        for sample in record.samples:
            found.setdefault(sample.prompt, []).append((label, sample.answer))
    return _prompts(found)


def samples_of_all(comparison: Comparison) -> list[dict[str, Any]]:
    """Return each prompt with the last answer of every run that has it."""
    found: dict[str, list[tuple[str, str]]] = {}
    for run, name in zip(comparison.runs, comparison.names, strict=True):
        for record in run.samples[-1:]:
            label = f"{name}, step {count(record.step)}"
            for sample in record.samples:
                found.setdefault(sample.prompt, []).append((label, sample.answer))
    return _prompts({prompt: answers for prompt, answers in found.items() if len(answers) > 1})


def comparison_of(found: Comparison) -> dict[str, Any]:
    """Return all that a page says of several runs."""
    rows = []
    for place, (name, run, last) in enumerate(zip(found.names, found.runs, found.evaluations, strict=True)):
        metrics = {} if last is None else last.metrics
        rows.append(
            {
                "name": name,
                "colour": f"run{place % RUN_COLOURS}",
                "state": run.state,
                "step": count(run.step),
                "cells": [_written(metrics, figure.metric, figure.write) for figure in FIGURES],
                "interval": interval(*interval_of(run, last)),
                "time": duration(run.outcome.seconds) if run.outcome is not None else "",
            }
        )
    each = ("facts", "evaluations", "error", "problems", "recipe")
    return {
        "rows": rows,
        "names": found.names,
        "caveats": found.caveats,
        "paired": [paired_text(pair, found.names) for pair in found.pairs],
        "recipe": _differences(found.recipe),
        "environment": _differences(found.environment),
        "runs": [
            {"name": name, **{key: value for key, value in run_of(run).items() if key in each}}
            for name, run in zip(found.names, found.runs, strict=True)
        ],
    }


def _tile(label: str, value: str, note: str = "", css: str = "") -> dict[str, str]:
    # A number stays with its unit where a narrow tile wraps its lines.
    return {"label": label, "value": value, "note": note.replace(" %", "\u00a0%"), "css": css}


def _progress(run: PastRun) -> str:
    total = f" of {count(run.total_steps)}" if run.total_steps else ""
    return f"step {count(run.step)}{total}"


def _written(metrics: Mapping[str, float], metric: str, write: Any) -> str:
    return write(metrics[metric]) if metric in metrics else ""


def _explanation(run: PastRun) -> str:
    if len(run.evaluations) < 2:
        return ""
    first, last = run.evaluations[0].metrics, run.evaluations[-1].metrics
    return CHOSEN_REWARDS_FALL if chosen_rewards_fall(first, last) else ""


def _pairs(run: PastRun) -> dict[str, Any] | None:
    courses, moved = run.margins.courses(), movement(run.margins)
    if moved is None:
        return None
    accuracy = accuracy_with_interval(moved.accuracy, moved.count)
    at = f"Accuracy at step {count(moved.last_step)}: {accuracy}."
    since = ""
    if moved.first_step != moved.last_step:
        since = (
            f" Since step {count(moved.first_step)}, {count(len(moved.became_right))} became right and "
            f"{count(len(moved.became_wrong))} became wrong; {count(len(moved.always_wrong))} were wrong at every "
            "evaluation."
        )
    charts = [draw_histogram(courses)]
    if moved.first_step != moved.last_step:
        charts.append(draw_scatter(courses))
    return {
        "text": at + since,
        "charts": charts,
        "always_wrong": _cards(moved.always_wrong),
        "became_wrong": _cards(moved.became_wrong),
        "became_right": _cards(moved.became_right),
        "unsteady": _cards(moved.unsteady),
    }


def _cards(courses: Sequence[Course]) -> dict[str, Any]:
    shown = []
    for course in courses[:_MOST_PAIRS]:
        path, zero = sparkline_path(course.margins)
        pair = course.pair
        texts = {name: getattr(pair, name) for name in ("prompt", "chosen", "rejected")}
        ends = f"{number(course.margins[0])} to {number(course.margins[-1])}"
        margin = ends if len(course.margins) > 1 else number(course.margins[-1])
        shown.append(
            {
                "place": pair.place,
                **texts,
                "margin": margin,
                "path": path,
                "zero": zero,
                "right": course.right[-1],
            }
        )
    return {"count": len(courses), "shown": shown}


def _sections(run: PastRun) -> list[dict[str, Any]]:
    found = []
    for name, values in ({} if run.outcome is None else run.outcome.sections).items():
        columns, rows = section_table(values)
        lines = section_lines(values)
        if lines or rows:
            found.append({"title": name, "lines": lines, "columns": columns, "rows": rows})
    return found


def _data(run: PastRun) -> dict[str, list[str]] | None:
    if run.data is None:
        return None
    return {
        "lines": run.data.summary_lines(),
        "warnings": run.data.warnings(),
    }


def _environment(environment: Mapping[str, Any]) -> dict[str, str]:
    packages = environment.get("packages")
    packages = packages if isinstance(packages, dict) else {}
    lines = {
        key: environment[key] for key in ("devices", "processes", "python", "platform") if key in environment
    }
    lines["packages"] = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
    if isinstance(command := environment.get("command"), list):
        lines["command"] = " ".join(map(str, command))
    return {key: ", ".join(map(str, v)) if isinstance(v, list) else str(v) for key, v in lines.items() if v}


def _differences(rows: Sequence[Difference]) -> list[dict[str, Any]]:
    return [{"key": row.key, "cells": [*map(value_text, row.values)]} for row in rows]


def _prompts(found: Mapping[str, list[tuple[str, str]]]) -> list[dict[str, Any]]:
    return [{"prompt": prompt, "answers": answers} for prompt, answers in list(found.items())[:_MOST_PROMPTS]]
