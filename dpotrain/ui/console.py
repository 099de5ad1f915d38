"""The consoles of standard output and standard error."""

from __future__ import annotations

import os

from rich.console import Console

#: Environment variables in which people, and terminals that do not know it, give a size.
_SIZES = ("COLUMNS", "LINES", "JUPYTER_COLUMNS", "JUPYTER_LINES")


def open_console(*, stderr: bool = False) -> Console:
    """Return the console of standard output, or of standard error.

    A size of 0 in the environment counts as not set: rich would print nothing into no columns.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in _SIZES or not value.isdigit() or int(value) > 0
    }
    return Console(stderr=stderr, _environ=environment)
