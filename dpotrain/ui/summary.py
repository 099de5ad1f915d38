"""The closing summary of a run: status, evaluation, result and how to load it."""

from __future__ import annotations

import io
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from dpotrain.core.formats import count, duration, megabytes, number, points, printable, rate, share, signed
from dpotrain.core.records import Outcome
from dpotrain.ui.judgement import CHOSEN_REWARDS_FALL, chosen_rewards_fall, memory_far_off

_LABEL_WIDTH = 12
#: Characters at which cells of a plugin's table wrap, so that texts stand side by side.
_CELL_WIDTH = 48
_STYLES = {"finished": "bold green", "stopped": "bold yellow", "failed": "bold red"}
_EVALUATION_ROWS = (
    ("loss", "loss", number, signed),
    ("rewards/accuracies", "accuracy", share, points),
    ("rewards/margins", "margin", number, signed),
    ("rewards/chosen", "chosen reward", number, signed),
    ("rewards/rejected", "rejected reward", number, signed),
)


def summary(outcome: Outcome) -> Group:
    """Return the closing summary, with what to do next at its end.

    Print it with ``crop=False``, so that paths and code can be copied.
    """
    return Group(*_parts(outcome))


def summary_text(outcome: Outcome) -> str:
    """Return the summary as plain text; only table cells are wrapped."""
    console = Console(
        file=io.StringIO(), width=400, color_system=None, force_terminal=False, legacy_windows=False
    )
    with console.capture() as capture:
        console.print(summary(outcome), crop=False)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _parts(outcome: Outcome) -> Iterator[RenderableType]:
    yield Text()
    yield _headline(outcome)
    yield from _evaluation(outcome)
    for name, values in outcome.sections.items():
        yield from _section(name, values)
    yield Text()
    if speed := _speed(outcome):
        yield _labelled("speed", speed)
    if plan := _plan(outcome.plan):
        yield _labelled("plan", plan)
    yield from _ending(outcome)


def _headline(outcome: Outcome) -> Text:
    steps = f"{count(outcome.steps)} step{'' if outcome.steps == 1 else 's'}"
    return Text.assemble(
        (outcome.status, _STYLES[outcome.status]),
        f" after {steps} in {duration(outcome.seconds)}",
        no_wrap=True,
    )


def _ending(outcome: Outcome) -> Iterator[RenderableType]:
    if outcome.status == "failed":
        yield _labelled("error", outcome.error or "unknown", style="red")
        yield _labelled("log", str(outcome.folder / "run.log"))
        if any((outcome.folder / "checkpoints").glob("step-*")):
            yield _labelled("resume", _resume(outcome))
        return
    if outcome.status == "stopped":
        yield _labelled("run", str(outcome.folder))
        yield _labelled("resume", _resume(outcome))
        return
    yield _labelled("result", str(outcome.final or outcome.folder), style="bold")
    if outcome.how_to_load:
        yield _labelled("load it", outcome.how_to_load, style="cyan")


def _resume(outcome: Outcome) -> str:
    return f"dpotrain run {shlex.quote(str(outcome.folder / 'recipe.toml'))} --resume"


def _speed(outcome: Outcome) -> str:
    parts = []
    if outcome.pairs_per_second > 0:
        parts.append(f"{rate(outcome.pairs_per_second)} pairs/s")
    if outcome.tokens_per_second > 0:
        parts.append(f"{rate(outcome.tokens_per_second)} tokens/s")
    if outcome.peak_memory_mb > 0:
        parts.append(f"peak memory {megabytes(outcome.peak_memory_mb)}")
    return ", ".join(parts)


def _plan(plan: Mapping[str, float]) -> str:
    """Return predicted and measured memory, or an empty text where the memory was about as predicted."""
    if not memory_far_off(plan):
        return ""
    predicted, measured = plan["peak_memory_mb_predicted"], plan["peak_memory_mb_measured"]
    return f"memory predicted {megabytes(predicted)}, measured {megabytes(measured)}"


def _evaluation(outcome: Outcome) -> Iterator[RenderableType]:
    first, last, best = outcome.first_evaluation, outcome.last_evaluation, outcome.best_evaluation
    if last:
        table = _table("evaluation", "before", "after", "change")
        for column in table.columns[1:]:
            column.justify = "right"
        for metric, label, write, change in _EVALUATION_ROWS:
            if metric in last and metric in first:
                table.add_row(
                    label, write(first[metric]), write(last[metric]), change(last[metric] - first[metric])
                )
            elif metric in last:
                table.add_row(label, "", write(last[metric]), "")
        yield table
        metric = outcome.best_by
        if metric in best and best[metric] != last.get(metric):
            yield Text(
                f"the best evaluation by {metric} was {number(best[metric])}, at step {count(int(best['step']))}"
            )
    if chosen_rewards_fall(first, last or outcome.train):
        yield Text(CHOSEN_REWARDS_FALL, style="dim")


def _section(name: str, values: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Yield a section that a plugin reported: plain values as lines, ``table`` as a table, nothing nested deeper."""
    lines = _section_lines(values)
    yield Text()
    yield Text(printable(name), style="bold", no_wrap=True)
    width = max([len(label) for label in lines] + [_LABEL_WIDTH])
    for label, value in lines.items():
        yield _labelled(label, value, width=width)
    table = values.get("table")
    if isinstance(table, Mapping) and _listed(table.get("columns")) and _listed(table.get("rows")):
        shown = _table(*(printable(str(column)) for column in table["columns"]), show_lines=True)
        for column in shown.columns:
            column.max_width = _CELL_WIDTH
            column.overflow = "fold"
        for row in filter(_listed, table["rows"]):
            shown.add_row(*(Text(printable(_plain(cell))) for cell in row[: len(shown.columns)]))
        yield shown


def _listed(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value)


def _section_lines(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the plain values by label; ``x_before`` and ``x_after`` are one line."""
    plain = {key: value for key, value in values.items() if isinstance(value, str | int | float | bool)}
    lines = {}
    for key, value in plain.items():
        stem = key.removesuffix("_before").removesuffix("_after")
        before, after = f"{stem}_before", f"{stem}_after"
        if stem != key and before in plain and after in plain:
            lines[stem.replace("_", " ")] = f"{_plain(plain[before])} before, {_plain(plain[after])} after"
        else:
            lines[key.replace("_", " ")] = _plain(value)
    return lines


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value)
    if isinstance(value, float):
        # Only the plugin knows whether a fraction is a share, so it is not shown in percent.
        return f"{value:.4g}"
    return str(value)


def _labelled(label: str, value: str, *, width: int = _LABEL_WIDTH, style: str = "") -> Text:
    """Return a labelled value, its further lines below its first. It is not wrapped, so that it can be copied."""
    lines = printable(value).splitlines() or [""]
    text = Text(no_wrap=True, overflow="ignore")
    for index, line in enumerate(lines):
        text.append(f"  {printable(label) if index == 0 else '':<{width}} ", style="dim")
        text.append(line, style=style)
        if index < len(lines) - 1:
            text.append("\n")
    return text


def _table(*columns: str, show_lines: bool = False) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, show_lines=show_lines)
    for column in columns:
        table.add_column(column)
    return table
