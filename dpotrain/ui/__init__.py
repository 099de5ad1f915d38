"""Terminal output: the live view, plain lines, tables and summaries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpotrain.core.reporter import Reporter

if TYPE_CHECKING:
    from rich.console import Console


def reporter(
    console: Console | None = None, *, plain: bool = False, evaluate_every: int | None = None
) -> Reporter:
    """Return the live view where standard output is a terminal that can show it, else plain lines.

    ``plain`` asks for plain lines in any case; ``evaluate_every`` is the recipe's ``evaluation.every``.
    """
    from dpotrain.ui.console import open_console

    console = open_console() if console is None else console
    if not plain and is_live(console):
        from dpotrain.ui.live import LiveReporter

        return LiveReporter(console, evaluate_every=evaluate_every)
    from dpotrain.ui.plain import PlainReporter

    return PlainReporter(console.file, evaluate_every=evaluate_every)


def is_live(console: Console) -> bool:
    """Whether standard output is a terminal in whose foreground this process is, and that shows what a view draws."""
    from dpotrain.ui.terminal import usable

    unicode = console.encoding.lower().startswith("utf")
    return console.is_terminal and not console.is_dumb_terminal and unicode and usable()
