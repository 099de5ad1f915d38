"""The table that ``dpotrain plugins`` shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dpotrain.ui.formats import printable

if TYPE_CHECKING:
    from dpotrain.plugin.manager import PluginInfo

_STYLES = {"active": "green", "unused": "", "blocked": "yellow", "failed": "bold red"}


def plugins_table(infos: Sequence[PluginInfo]) -> RenderableType:
    """Return every plugin with what it offers, where it comes from and its status; below, why some failed.

    Print it with ``crop=False``: files and reasons are whole lines, to be copied and searched.
    """
    if not infos:
        return Text("No plugins are installed, not even dpotrain's own; is dpotrain installed with pip?")
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column("plugin", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("offers", overflow="fold")
    table.add_column("distribution", overflow="fold")
    for info in infos:
        status = Text(info.status, style=_STYLES[info.status])
        table.add_row(Text(printable(info.name)), status, Text(_offers(info)), Text(_origin(info)))
    files = [_line(info.name, "dim", info.file or "no file found") for info in infos]
    reasons = [
        _line(f"{info.name} {info.status}", _STYLES[info.status], info.reason)
        for info in infos
        if info.reason
    ]
    return Group(table, *files, *([Text(), *reasons] if reasons else []))


def _offers(info: PluginInfo) -> str:
    lines = [f"{kind}: {', '.join(names)}" for kind, names in info.offers.items()]
    if info.events:
        lines.append(f"events: {', '.join(info.events)}")
    return printable("\n".join(lines)) or "-"


def _origin(info: PluginInfo) -> str:
    return printable(" ".join(part for part in (info.distribution, info.version) if part)) or "-"


def _line(label: str, style: str, value: str) -> Text:
    text = Text.assemble((f"{printable(label)}: ", style), printable(value))
    text.no_wrap, text.overflow = True, "ignore"
    return text
