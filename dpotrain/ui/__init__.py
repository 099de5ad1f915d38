"""Terminal output: the live view, plain lines, tables and summaries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpotrain.core.reporter import Reporter

if TYPE_CHECKING:
    from rich.console import Console


def reporter(console: Console | None = None) -> Reporter:
    """Return the live view where ``console`` (standard output) is a terminal that can show it, else plain lines."""
    from dpotrain.ui.console import open_console

    console = open_console() if console is None else console
    if console.is_terminal and not console.is_dumb_terminal and console.encoding.lower().startswith("utf"):
        from dpotrain.ui.live import LiveReporter

        return LiveReporter(console)
    from dpotrain.ui.plain import PlainReporter

    return PlainReporter(console.file)
