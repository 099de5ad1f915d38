"""The output of ``dpotrain list``: a row for each run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dpotrain.core.formats import count, duration, number, printable, share
from dpotrain.report.listing import ListedRun
from dpotrain.ui.console import open_console
from dpotrain.ui.fitting import Fitting
from dpotrain.ui.output import print_view, width_of

#: From this width on there are all columns; below, the others leave room for the rest.
_WIDE = 110
_WIDE_ONLY = ("model", "train loss", "took")
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
    wide = (width_of(console) or _WIDE) >= _WIDE
    cells = [_cells(run, folder, time.time() if now is None else now, wide) for run in runs]
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for name in cells[0]:
        if name in ("run", "model"):
            table.add_column(name, overflow="fold")
        else:
            table.add_column(name, no_wrap=True, justify="left" if name == "state" else "right")
    for row in cells:
        table.add_row(*row.values())
    print_view(Fitting(table), console)


def _cells(run: ListedRun, folder: Path, now: float, wide: bool) -> dict[str, Text | str]:
    """Return the cells of a run's row by the names of their columns; on a narrow terminal what matters most."""
    low, high = run.interval
    accuracy = "" if math.isnan(run.accuracy) else share(run.accuracy)
    if accuracy and not math.isnan(low):
        accuracy += f" ({low * 100:.0f} to {high * 100:.0f})"
    cells: dict[str, Text | str] = {
        "run": Text(printable(_name(run.path, folder))),
        "state": Text(run.state, style=STATE_STYLES[run.state]),
        "step": _step(run),
        "model": Text(printable(run.model)),
        "train loss": _known(run.train_loss, number),
        "eval loss": _known(run.loss, number),
        "accuracy (95 %)": accuracy,
        "took": _known(run.seconds, duration),
        "age": duration(now - run.updated) if run.updated else "",
    }
    return {name: cell for name, cell in cells.items() if wide or name not in _WIDE_ONLY}


def _name(path: Path, folder: Path) -> str:
    return path.name if path == folder else path.relative_to(folder).as_posix()


def _step(run: ListedRun) -> str:
    of = "" if run.total_steps in (None, run.step) else f"/{count(run.total_steps or 0)}"
    return f"{count(run.step)}{of}"


def _known(value: float, write: Callable[[float], str]) -> str:
    return "" if math.isnan(value) else write(value)
