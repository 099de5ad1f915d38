"""Errors on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from dpotrain.core.errors import RunStopped
from dpotrain.core.formats import printable
from dpotrain.core.masking import mask
from dpotrain.ui.console import open_console
from dpotrain.ui.wrapping import wrapped


def print_error(error: BaseException, console: Console | None = None) -> None:
    """Print ``error: …`` on standard error (or ``console``), without a traceback and without secrets.

    On a terminal, lines are broken between words; paths and commands stay whole. A run that was stopped on a signal
    shows ``stopped:``.
    """
    console = open_console(stderr=True) if console is None else console
    word, style = ("stopped", "bold yellow") if isinstance(error, RunStopped) else ("error", "bold red")
    text = printable(mask(str(error))).strip() or type(error).__name__
    if console.is_terminal:
        text = wrapped(f"{word}: {text}", console.width).removeprefix(f"{word}:").lstrip(" \n")
    console.print(Text.assemble((f"{word}: ", style), text), soft_wrap=True)
