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
    if not plain and console.is_terminal and not console.is_dumb_terminal and _is_unicode(console):
        from dpotrain.ui.terminal import usable

        if usable():
            from dpotrain.ui.live import LiveReporter

            return LiveReporter(console, evaluate_every=evaluate_every)
    from dpotrain.ui.plain import PlainReporter

    return PlainReporter(console.file, evaluate_every=evaluate_every)


def _is_unicode(console: Console) -> bool:
    return console.encoding.lower().startswith("utf")
