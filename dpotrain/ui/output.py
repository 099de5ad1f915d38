"""Printing a view on a terminal, wrapped to its width, or to a file, not wrapped at all."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType

#: On fewer columns the terminal wraps lines itself.
NARROWEST = 24
_UNWRAPPED = 1_000_000


def print_view(view: RenderableType, console: Console) -> None:
    """Print a view; lines are wrapped on a terminal only."""
    if console.is_terminal:
        console.width = max(console.width, NARROWEST)
        console.print(view, crop=False)
        return
    plain = Console(file=io.StringIO(), width=_UNWRAPPED, color_system=None, force_terminal=False)
    plain.print(view)
    assert isinstance(plain.file, io.StringIO)
    # An encoding without a character must not end the output.
    encoding = console.encoding
    for line in plain.file.getvalue().splitlines():
        console.file.write(line.rstrip().encode(encoding, "replace").decode(encoding) + "\n")


def width_of(console: Console) -> int | None:
    """Return the columns of a terminal; None for a file."""
    return max(console.width, NARROWEST) if console.is_terminal else None
