"""The output of ``dpotrain list``: a row for each run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from dpotrain.core.formats import count, duration, interval, number, printable, share
from dpotrain.report.listing import ListedRun
from dpotrain.ui.console import open_console
from dpotrain.ui.fitting import Fitting
from dpotrain.ui.output import print_view

STATE_STYLES = {
    "finished": "green",
    "stopped": "yellow",
    "interrupted": "yellow",
    "running": "cyan",
    "failed": "red",
    "killed": "red",
}


def print_runs(
    folder: Path, runs: Sequence[ListedRun], console: Console | None = None, now: float | None = None
) -> None:
    """Print a table of runs; ``now`` is in seconds since 1970."""
    console = open_console() if console is None else console
    if not runs:
        print_view(Text(f"{printable(str(folder))} holds no run."), console)
        return
    now = time.time() if now is None else now
    right = {"justify": "right", "no_wrap": True}
    table = Table(
        Column("run", overflow="fold"),
        Column("state", no_wrap=True),
        Column("step", **right),  # type: ignore[arg-type]
        Column("model", overflow="fold"),
        *(Column(name, **right) for name in ("train loss", "eval loss", "accuracy")),  # type: ignore[arg-type]
        Column("95 % interval", no_wrap=True),
        *(Column(name, **right) for name in ("took", "written")),  # type: ignore[arg-type]
        box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False,
    )  # fmt: skip
    for run in runs:
        table.add_row(
            Text(printable(_name(run.path, folder))),
            Text(run.state, style=STATE_STYLES[run.state]),
            _step(run),
            Text(printable(run.model)),
            _known(run.train_loss, number),
            _known(run.loss, number),
            _known(run.accuracy, share),
            interval(*run.interval),
            _known(run.seconds, duration),
            f"{duration(now - run.updated)} ago" if run.updated else "",
        )
    print_view(Fitting(table), console)


def _name(path: Path, folder: Path) -> str:
    return path.name if path == folder else path.relative_to(folder).as_posix()


def _step(run: ListedRun) -> str:
    of = "" if run.total_steps in (None, run.step) else f"/{count(run.total_steps or 0)}"
    return f"{count(run.step)}{of}"


def _known(value: float, write: Callable[[float], str]) -> str:
    return "" if math.isnan(value) else write(value)
