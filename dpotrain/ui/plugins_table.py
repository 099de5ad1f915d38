"""The plugins as a table in a terminal, as lines elsewhere, and as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dpotrain.core.formats import printable
from dpotrain.plugin.runtime.manager import PluginInfo

if TYPE_CHECKING:
    from rich.console import Console

_STYLES = {"active": "green", "unused": "dim", "blocked": "yellow", "failed": "red"}


def print_json(infos: Sequence[PluginInfo]) -> None:
    """Print a JSON list with one object a plugin."""
    json.dump([info.as_json() for info in infos], sys.stdout, indent=2, ensure_ascii=False)
    print()


def print_plugins(infos: Sequence[PluginInfo], console: Console | None = None) -> None:
    """Print a table where ``console`` (standard output) is a terminal, and one line a plugin elsewhere."""
    terminal = sys.stdout.isatty() if console is None else console.is_terminal
    if not (terminal and infos):
        # By itself: importing rich takes as long as looking at a dozen plugins.
        print(*_lines(infos), sep="\n", file=sys.stdout if console is None else console.file)
        return
    from dpotrain.ui.console import open_console

    _print_table(infos, open_console() if console is None else console)


def offers(info: PluginInfo) -> list[str]:
    """Return what a plugin is for, one text a kind: ``losses: dpo, ipo``."""
    texts = [f"{_plural(kind)}: {', '.join(names)}" for kind, names in info.offers.items()]
    if info.kinds:
        texts.append(f"kinds: {', '.join(info.kinds)}")
    if info.commands:
        texts.append(f"commands: {', '.join(info.commands)}")
    if info.events:
        texts.append("subscribes: " + ", ".join(event.removeprefix("dpotrain_") for event in info.events))
    return texts


def _plural(kind: str) -> str:
    return kind + ("es" if kind.endswith("s") else "s")


def origin(info: PluginInfo) -> str:
    """Return distribution and version."""
    return " ".join(part for part in (info.distribution, info.version) if part) or "registered by hand"


def _print_table(infos: Sequence[PluginInfo], console: Console) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from dpotrain.ui.fitting import Fitting

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("plugin", style="bold", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for name in ("offers", "from"):
        table.add_column(name, overflow="fold", ratio=2)
    for info in infos:
        details = [Text(printable(line)) for line in offers(info)]
        details += [Text(printable(info.reason), style=_STYLES[info.status])] if info.reason else []
        details += [Text(printable(note), style="yellow") for note in info.notes]
        place = Text(printable(origin(info)))
        if info.file:
            place.append(f"\n{printable(info.file)}", style="dim")
        status = Text(info.status, style=_STYLES[info.status])
        table.add_row(Text(printable(info.name)), status, Text("\n").join(details), place)
    console.print(Fitting(table))


def _lines(infos: Sequence[PluginInfo]) -> list[str]:
    """Return aligned lines: name, status, distribution and version, file, what is offered, reason and notes."""
    if not infos:
        return ["no plugins are installed, not even dpotrain's own; is dpotrain installed with pip?"]
    rows = [(info.name, info.status, origin(info), info.file or "-") for info in infos]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = []
    for info, row in zip(infos, rows, strict=True):
        details = ["; ".join(offers(info)), *(" ".join(text.split()) for text in (info.reason, *info.notes))]
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append(printable("  ".join([*cells, *filter(None, details)]).rstrip()))
    return lines
