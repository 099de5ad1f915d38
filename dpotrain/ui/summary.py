"""The closing summary of a run: status, evaluation, result and how to load it."""

from __future__ import annotations

import io
import math
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from dpotrain.core.formats import count, duration, megabytes, number, printable, rate
from dpotrain.core.records import Outcome
from dpotrain.report.resume_command import resume_command
from dpotrain.report.run_files import RunFiles
from dpotrain.run.folder.run_folder import RunFolder
from dpotrain.ui.figures import ACCURACY, FIGURES, accuracy_with_interval, by_source
from dpotrain.ui.fitting import Fitting
from dpotrain.ui.judgement import CHOSEN_REWARDS_FALL, chosen_rewards_fall
from dpotrain.ui.sections import section_lines, section_table

#: Relative error of the predicted peak memory from which the summary shows it.
_FAR_OFF = 0.25
_LABEL_WIDTH = 12
#: Characters at which cells of a plugin's table wrap, so that texts stand side by side.
_CELL_WIDTH = 48
_STYLES = {
    "finished": "bold green",
    "stopped": "bold yellow",
    "interrupted": "bold yellow",
    "failed": "bold red",
}


def summary(outcome: Outcome) -> Group:
    """Return the closing summary; print it with ``crop=False``, so that paths and code can be copied."""
    return Group(*_parts(outcome))


def summary_text(outcome: Outcome) -> str:
    """Return the summary as plain text; only table cells are wrapped."""
    file = io.StringIO()
    console = Console(file=file, width=400, color_system=None, force_terminal=False, legacy_windows=False)
    console.print(summary(outcome), crop=False)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def _parts(outcome: Outcome) -> Iterator[RenderableType]:
    yield Text()
    yield Text.assemble((outcome.status, _STYLES[outcome.status]), _ended(outcome))
    yield from _evaluation(outcome)
    for name, values in outcome.sections.items():
        yield from _section(name, values)
    yield Text()
    if speed := _speed(outcome):
        yield _labelled("speed", speed)
    if plan := _plan(outcome.plan):
        yield _labelled("plan", plan)
    yield from _ending(outcome)


def _ended(outcome: Outcome) -> str:
    """Return when the run ended, and where it resumes if it has not finished."""
    ended = f" after {_steps(outcome.steps)} in {duration(outcome.seconds)}"
    if outcome.status == "finished" or outcome.checkpoint_step is None:
        return ended
    lost = outcome.steps - outcome.checkpoint_step
    return f"{ended}; resumes at step {count(outcome.checkpoint_step)}" + (
        f", {_steps(lost)} lost" if lost else ""
    )


def _steps(steps: int) -> str:
    return f"{count(steps)} step{'s' * (steps != 1)}"


def _ending(outcome: Outcome) -> Iterator[RenderableType]:
    folder = shlex.quote(str(outcome.folder))
    if outcome.status == "finished":
        yield _labelled("result", str(outcome.final or outcome.folder), style="bold")
        if outcome.final_step not in (None, outcome.steps):
            yield _labelled("", f"the policy of step {count(outcome.final_step or 0)}, the best evaluation")
    else:
        yield _labelled("run", str(outcome.folder))
    if outcome.status == "failed":
        yield _labelled("error", outcome.error or "unknown", style="red")
        yield _labelled("log", str(outcome.folder / "run.log"))
    if outcome.status == "stopped" or (outcome.status != "finished" and outcome.checkpoint_step is not None):
        status = RunFiles().json(RunFolder(outcome.folder).status)
        yield _labelled("resume", resume_command(outcome.folder, status))
    if outcome.final is not None:
        yield _labelled("talk to it", f"dpotrain chat {folder}")
    if outcome.steps:
        yield _labelled("look at it", f"dpotrain show {folder}")
        yield _labelled("share it", f"dpotrain report {folder}")
    if outcome.final is not None and outcome.how_to_load:
        # In the first column, so that it can be copied and run.
        yield Text()
        yield Text("load it:", style="dim")
        yield Text(printable(outcome.how_to_load), style="cyan", no_wrap=True, overflow="ignore")


def _speed(outcome: Outcome) -> str:
    parts = {
        f"{rate(outcome.pairs_per_second)} pairs/s": outcome.pairs_per_second,
        f"{rate(outcome.tokens_per_second)} tokens/s": outcome.tokens_per_second,
        f"peak memory {megabytes(outcome.peak_memory_mb)}": outcome.peak_memory_mb,
    }
    return ", ".join(text for text, value in parts.items() if value > 0)


def _plan(plan: Mapping[str, float]) -> str:
    """Return predicted and measured peak memory, or an empty text where they are about the same or one is unknown."""
    predicted, measured = plan.get("peak_memory_mb_predicted"), plan.get("peak_memory_mb_measured")
    if not predicted or not measured or abs(measured - predicted) <= _FAR_OFF * predicted:
        return ""
    return f"memory predicted {megabytes(predicted)}, measured {megabytes(measured)}"


def _evaluation(outcome: Outcome) -> Iterator[RenderableType]:
    first, last, best = outcome.first_evaluation, outcome.last_evaluation, outcome.best_evaluation
    if last:
        several = bool(first) and first != last
        at_end = _when(last, outcome, outcome.steps)
        columns = [_when(first, outcome, 0), at_end, "change"] if several else [at_end]
        figures = [Column(name, justify="right", no_wrap=True) for name in columns]
        table = _table("evaluation", *figures)
        shown = [(figure, figure.metric, figure.label) for figure in FIGURES]
        shown += [(ACCURACY, f"{label}/{ACCURACY.metric}", f"accuracy, {label}") for label in by_source(last)]
        for figure, metric, name in shown:
            if metric not in last:
                continue
            after = last[metric]
            cells = [figure.write(after)]
            if several:
                before = first.get(metric, math.nan)
                cells = [figure.write(before), *cells, figure.write_change(after - before)]
            table.add_row(Text(printable(name)), *cells)
        yield Fitting(table)
        if (pairs := last.get("pairs", 0)) and "rewards/accuracies" in last:
            yield _labelled("accuracy", accuracy_with_interval(last["rewards/accuracies"], pairs))
        metric = outcome.best_by
        if metric in best and best[metric] != last.get(metric):
            yield _labelled("best", f"{metric} {number(best[metric])} at step {count(int(best['step']))}")
    if chosen_rewards_fall(first, last or outcome.train):
        yield Text(CHOSEN_REWARDS_FALL, style="dim")


def _when(evaluation: Mapping[str, float], outcome: Outcome, unless_known: int) -> str:
    """Return when an evaluation was: before training, at its end, or at a step between."""
    step = int(evaluation.get("step", unless_known))
    if step == 0:
        return "before"
    return "after" if step == outcome.steps and outcome.status == "finished" else f"step {count(step)}"


def _section(name: str, values: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Yield a section that a plugin reported: plain values as lines, ``table`` as a table, nothing nested deeper."""
    lines = section_lines(values)
    yield Text()
    yield Text(printable(name), style="bold")
    width = max([len(label) for label in lines] + [_LABEL_WIDTH])
    for label, value in lines.items():
        yield _labelled(label, value, width=width)
    columns, rows = section_table(values)
    if columns:
        shown = _table(
            *(Column(name, max_width=_CELL_WIDTH, overflow="fold") for name in columns), show_lines=True
        )
        for row in rows:
            shown.add_row(*map(Text, row))
        yield Fitting(shown)


def _labelled(label: str, value: str, *, width: int = _LABEL_WIDTH, style: str = "") -> Text:
    """Return a labelled value, its further lines below its first. It is not wrapped, so that it can be copied."""
    text = Text(no_wrap=True, overflow="ignore")
    for index, line in enumerate(printable(value).splitlines() or [""]):
        text.append(f"  {printable(label):<{width}} " if index == 0 else f"\n{'':{width + 3}}", style="dim")
        text.append(line, style=style)
    return text


def _table(*columns: Column | str, show_lines: bool = False) -> Table:
    return Table(*columns, box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, show_lines=show_lines)
