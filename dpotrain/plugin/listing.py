"""The plugins as a table in a terminal, as lines elsewhere, and as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dpotrain.plugin.components import CATALOGUES

if TYPE_CHECKING:
    from rich.console import Console

    from dpotrain.plugin.manager import PluginInfo

_STYLES = {"active": "green", "unused": "dim", "blocked": "yellow", "failed": "red"}
_PLURALS = {
    kind.kind: f"{kind.kind}es" if kind.kind.endswith("s") else f"{kind.kind}s"
    for kind in CATALOGUES.values()
}


def print_json(infos: Sequence[PluginInfo]) -> None:
    """Print a JSON list with one object a plugin."""
    json.dump([info.as_json() for info in infos], sys.stdout, indent=2, ensure_ascii=False)
    print()


def print_plugins(infos: Sequence[PluginInfo], console: Console | None = None) -> None:
    """Print a table where ``console`` (standard output) is a terminal, and one line a plugin elsewhere."""
    from rich.console import Console

    console = Console() if console is None else console
    if not infos:
        console.print("no plugins are installed", soft_wrap=True)
    elif console.is_terminal:
        _print_table(infos, console)
    else:
        for line in _lines(infos):
            console.print(line, soft_wrap=True, markup=False, highlight=False, emoji=False)


def offers(info: PluginInfo) -> list[str]:
    """Return what a plugin is for, one text a kind: ``losses: dpo, ipo``."""
    texts = [f"{_PLURALS[kind]}: {', '.join(names)}" for kind, names in info.offers.items()]
    if info.events:
        texts.append("hears: " + ", ".join(event.removeprefix("dpotrain_") for event in info.events))
    return texts


def _origin(info: PluginInfo) -> str:
    return " ".join(part for part in (info.distribution, info.version) if part) or "registered by hand"


def _print_table(infos: Sequence[PluginInfo], console: Console) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("plugin", style="bold", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("offers", overflow="fold", ratio=2)
    table.add_column("from", overflow="fold", ratio=2)
    for info in infos:
        told = [Text(line) for line in offers(info)]
        told += [Text(info.reason, style=_STYLES[info.status])] if info.reason else []
        origin = Text(_origin(info))
        if info.file:
            origin.append(f"\n{info.file}", style="dim")
        table.add_row(
            Text(info.name), Text(info.status, style=_STYLES[info.status]), Text("\n").join(told), origin
        )
    console.print(table)


def _lines(infos: Sequence[PluginInfo]) -> list[str]:
    """Return aligned lines: name, status, distribution and version, file, what is offered, reason."""
    rows = [(info.name, info.status, _origin(info), info.file or "-") for info in infos]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = []
    for info, row in zip(infos, rows, strict=True):
        told = "; ".join(offers(info)) + (f"  {' '.join(info.reason.split())}" if info.reason else "")
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join([*cells, told.strip()]).rstrip())
    return lines
