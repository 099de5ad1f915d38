"""The closing summary of a run: status, evaluation, result and how to load it."""

from __future__ import annotations

import io
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from dpotrain.core.formats import count, duration, megabytes, number, points, printable, rate, share, signed
from dpotrain.core.records import Outcome
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
_EVALUATION_ROWS = (
    ("loss", "loss", number, signed),
    ("rewards/accuracies", "accuracy", share, points),
    ("rewards/margins", "margin", number, signed),
    ("rewards/chosen", "chosen reward", number, signed),
    ("rewards/rejected", "rejected reward", number, signed),
)


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
    steps = f"{count(outcome.steps)} step{'' if outcome.steps == 1 else 's'}"
    ended = f" after {steps} in {duration(outcome.seconds)}"
    yield Text()
    yield Text.assemble((outcome.status, _STYLES[outcome.status]), ended)
    yield from _evaluation(outcome)
    for name, values in outcome.sections.items():
        yield from _section(name, values)
    yield Text()
    if speed := _speed(outcome):
        yield _labelled("speed", speed)
    if plan := _plan(outcome.plan):
        yield _labelled("plan", plan)
    yield from _ending(outcome)


def _ending(outcome: Outcome) -> Iterator[RenderableType]:
    if outcome.status == "finished":
        yield _labelled("result", str(outcome.final or outcome.folder), style="bold")
        if outcome.how_to_load:
            yield _labelled("load it", outcome.how_to_load, style="cyan")
        return
    if outcome.status in ("stopped", "interrupted"):
        yield _labelled("run", str(outcome.folder))
    else:
        yield _labelled("error", outcome.error or "unknown", style="red")
        yield _labelled("log", str(outcome.folder / "run.log"))
    if outcome.checkpoint_step is not None:
        lost = outcome.steps - outcome.checkpoint_step
        yield _labelled(
            "resumes",
            f"at step {count(outcome.checkpoint_step)}"
            + (f", {count(lost)} step{'' if lost == 1 else 's'} lost" if lost else ""),
        )
    if outcome.status == "stopped" or outcome.checkpoint_step is not None:
        recipe = shlex.quote(str(outcome.folder / "recipe.toml"))
        yield _labelled("resume", f"dpotrain run {recipe} --resume")


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
        figures = [Column(name, justify="right", no_wrap=True) for name in ("before", "after", "change")]
        table = _table("evaluation", *figures)
        for metric, label, write, change in _EVALUATION_ROWS:
            if metric in last:
                before, after = first.get(metric), last[metric]
                old, grown = ("", "") if before is None else (write(before), change(after - before))
                table.add_row(label, old, write(after), grown)
        yield Fitting(table)
        metric = outcome.best_by
        if metric in best and best[metric] != last.get(metric):
            value, step = number(best[metric]), count(int(best["step"]))
            yield Text(f"the best evaluation by {metric} was {value}, at step {step}")
    if chosen_rewards_fall(first, last or outcome.train):
        yield Text(CHOSEN_REWARDS_FALL, style="dim")


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
