"""The live region as a pure function of a state, without clock, terminal or thread."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain, zip_longest

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dpotrain.core.formats import (
    count,
    duration,
    learning_rate,
    megabytes,
    number,
    points,
    rate,
    share,
    signed,
    sparkline,
)
from dpotrain.ui.judgement import CHOSEN_REWARDS_FALL, chosen_rewards_fall
from dpotrain.ui.pace import Pace

#: Below the first width the figures are in one column, below the second there are no bars.
_TWO_COLUMNS = 64
_BARS = 48
_SPARK_WIDTH = 24
_EVALUATION_ROWS = (
    ("loss", "loss", number, signed),
    ("accuracy", "rewards/accuracies", share, points),
    ("margin", "rewards/margins", signed, signed),
)


@dataclass(slots=True)
class PhaseState:
    """Running work before or between steps."""

    name: str
    total: int | None
    begun: float
    done: int = 0

    def seconds_left(self, now: float) -> float:
        """Seconds until it is done at the mean speed; nan where that is unknown."""
        if not self.total or not self.done:
            return math.nan
        return (self.total - self.done) * (now - self.begun) / self.done


@dataclass(slots=True)
class ViewState:
    """All that the view depends on, besides time and width."""

    begun: float
    pace: Pace = field(default_factory=Pace)
    losses: list[float] = field(default_factory=list)
    """The loss of every step so far."""
    phases: list[PhaseState] = field(default_factory=list)
    memory_mb: float | None = None
    first_evaluation: Mapping[str, float] = field(default_factory=dict)
    evaluation: Mapping[str, float] = field(default_factory=dict)
    evaluation_step: int = 0
    checkpoint_step: int | None = None


def picture(state: ViewState, now: float, width: int) -> RenderableType:
    """Return the live region for ``width`` columns at ``now``, seconds of the clock of ``begun``."""
    parts: list[RenderableType] = []
    if state.pace.last is not None:
        parts += [_training(state, now, width), *_figures(state, width), *_evaluation(state, width)]
    parts += [_phase(phase, now, width) for phase in list(state.phases)]
    return Group(*parts)


def _bar_line(label: str, done: int, total: int | None, tail: str, width: int, style: str) -> RenderableType:
    line = Table.grid(padding=(0, 1), expand=True)
    line.add_column(no_wrap=width >= _BARS, overflow="fold")
    cells: list[RenderableType] = [Text(label, style="bold")]
    if total is not None and width >= _BARS:
        line.add_column(ratio=1)
        cells.append(ProgressBar(max(total, 1), done, complete_style=style, finished_style=style))
    line.add_column(no_wrap=width >= _BARS, justify="right", overflow="fold")
    line.add_row(*cells, Text(tail))
    return line


def _training(state: ViewState, now: float, width: int) -> RenderableType:
    last = state.pace.last
    assert last is not None
    tail = f"{count(last.step)}/{count(last.total_steps)}"
    if width >= _TWO_COLUMNS:
        tail += f"  epoch {last.epoch:.2f}  {duration(now - state.begun)} gone"
    tail += f"  {duration(state.pace.seconds_left)} left"
    return _bar_line("training", last.step, last.total_steps, tail, width, "green")


def _phase(phase: PhaseState, now: float, width: int) -> RenderableType:
    if phase.total is None:
        tail = f"{count(phase.done)}  " if phase.done else ""
    else:
        tail = f"{count(phase.done)}/{count(phase.total)}  "
    left = phase.seconds_left(now)
    tail += f"{duration(now - phase.begun)} gone" if math.isnan(left) else f"{duration(left)} left"
    return _bar_line(phase.name, phase.done, phase.total, tail, width, "cyan")


def _grid(width: int, columns: int) -> Table:
    """Return a table of ``columns`` columns of labels, each with its figures."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(columns):
        grid.add_column(style="dim", no_wrap=width >= _BARS, overflow="fold")
        grid.add_column(no_wrap=True, justify="right", min_width=11 if width >= _BARS else None)
    return grid


def _figures(state: ViewState, width: int) -> list[RenderableType]:
    pace, last = state.pace, state.pace.last
    assert last is not None

    def known(*rows: tuple[str, float | None, Callable[[float], str]]) -> list[tuple[str, str]]:
        return [("  " + label, write(value)) for label, value, write in rows if value is not None]

    one = known(
        ("loss", pace.mean("loss"), number),
        ("accuracy", pace.mean("rewards/accuracies"), share),
        ("margin", pace.mean("rewards/margins"), signed),
        ("chosen", pace.mean("rewards/chosen"), signed),
        ("rejected", pace.mean("rewards/rejected"), signed),
    )
    two = known(
        ("learning rate", last.metrics.get("learning_rate"), learning_rate),
        ("grad norm", pace.mean("grad_norm"), number),
        ("pairs/s", pace.pairs_per_second, rate),
        ("tokens/s", pace.tokens_per_second, rate),
        ("peak memory", state.memory_mb, megabytes),
    )
    columns = 2 if width >= _TWO_COLUMNS else 1
    grid = _grid(width, columns)
    rows = zip_longest(one, two, fillvalue=("  ", "")) if columns == 2 else zip(one + two)
    for row in rows:
        grid.add_row(*chain(*row))
    course = Text("  loss so far  ", style="dim", no_wrap=True, overflow="ellipsis")
    course.append(sparkline(state.losses, min(_SPARK_WIDTH * columns, max(width - 16, 0))), style="green")
    note = f"  mean of the last {pace.steps} steps" if pace.steps > 1 else "  the first step"
    return [grid, course, Text(note, style="dim italic")]


def _evaluation(state: ViewState, width: int) -> list[RenderableType]:
    parts: list[RenderableType] = []
    now, first = state.evaluation, state.first_evaluation
    if now:
        title = f"evaluation at step {count(state.evaluation_step)}"
        if now is not first and width >= _BARS:
            title += ", and the change since the first"
        grid = _grid(width, 1)
        if width >= _BARS:
            grid.add_column(no_wrap=True, justify="right", style="dim")
        for label, metric, write, change in _EVALUATION_ROWS:
            if metric in now:
                changed = change(now[metric] - first[metric]) if now is not first and metric in first else ""
                grid.add_row(*("  " + label, write(now[metric]), changed)[: len(grid.columns)])
        parts += [Text(title, style="bold"), grid]
        if now is not first and chosen_rewards_fall(first, now):
            parts.append(Text(CHOSEN_REWARDS_FALL, style="dim italic"))
    if state.checkpoint_step is not None:
        place = f"at step {count(state.checkpoint_step)}"
        parts.append(Text.assemble(("checkpoint ", "bold"), place))
    return parts
