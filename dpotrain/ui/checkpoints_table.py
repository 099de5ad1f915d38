"""The table that ``dpotrain checkpoints`` shows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dpotrain.core.formats import count, megabytes, printable
from dpotrain.report.inventory import Entry
from dpotrain.ui.fitting import Fitting


def checkpoints_table(run: Path, entries: Sequence[Entry]) -> RenderableType:
    """Return a table with a row for each checkpoint, and below it why some are damaged."""
    if not entries:
        return Text(f"{printable(str(run))} has no checkpoint yet; --resume starts at step 1.")
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column("saved", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("state")
    table.add_column("")
    for entry in entries:
        saved = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.saved))
        state = Text("damaged", style="bold red") if entry.fault else Text("valid", style="green")
        marks = ["--resume continues here"] * entry.resumes + ["best evaluation"] * entry.best
        table.add_row(count(entry.step), saved, megabytes(entry.bytes / 2**20), state, ", ".join(marks))
    faults = [(f"step {count(entry.step)} ", printable(entry.fault)) for entry in entries if entry.fault]
    return Group(Fitting(table), *(Text.assemble((step, "bold red"), fault) for step, fault in faults))
