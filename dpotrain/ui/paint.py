"""Writing lines to a terminal again and again, so that only the newest are there."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.text import Text

from dpotrain.ui.layout import Block


class Ink:
    """Turns lines into what a terminal takes, in the colours that it has."""

    def __init__(self, console: Console) -> None:
        self._console = Console(
            file=io.StringIO(),
            force_terminal=True,
            color_system=console.color_system,  # type: ignore[arg-type]
            no_color=console.no_color,
            legacy_windows=False,
            width=10_000,
            height=100,
        )

    def lines(self, block: Sequence[Text]) -> list[str]:
        """Return each line as characters and escape sequences."""
        with self._console.capture() as written:
            for line in block:
                self._console.print(line, soft_wrap=True)
        return written.get().split("\n")[: len(block)]

    def printed(self, what: RenderableType, width: int, *, whole_lines: bool) -> str:
        """Return something that stays, at a width; ``whole_lines`` are not wrapped, so that they can be copied."""
        with self._console.capture() as written:
            self._console.print(what, soft_wrap=whole_lines, crop=False, width=None if whole_lines else width)
        return written.get()


class FullScreen:
    """Paints the whole screen; lines that stay the same are not written again."""

    def __init__(self, ink: Ink) -> None:
        self._ink = ink
        self._painted: list[str] = []
        self._size = (0, 0)

    def forget(self) -> None:
        """Assume nothing of what the screen shows."""
        self._size = (0, 0)

    def paint(self, block: Block, width: int, height: int) -> str:
        """Return what makes the screen show the lines."""
        out = ""
        if self._size != (width, height):
            out, self._painted, self._size = "\x1b[0m\x1b[2J", [], (width, height)
        lines = self._ink.lines(block)
        for number, (line, text) in enumerate(zip(lines, block, strict=True)):
            if self._painted[number : number + 1] != [line]:
                # At the last column some terminals would erase it.
                end = "\x1b[K" if cell_len(text.plain) < width else ""
                out += f"\x1b[{number + 1};1H{line}{end}"
        self._painted = lines
        return out


class Region:
    """Paints lines at the end of an ordinary screen, below what stays."""

    def __init__(self, ink: Ink) -> None:
        self._ink = ink
        self._widths: list[int] = []

    def forget(self) -> None:
        """Leave what is painted where it is."""
        self._widths = []

    def erase(self, width: int) -> str:
        """Return what removes the region; lines that a narrower terminal has broken take several rows."""
        if not self._widths:
            return ""
        rows = sum(max(1, -(-each // max(width, 1))) for each in self._widths)
        self._widths = []
        return "\r" + (f"\x1b[{rows - 1}A" if rows > 1 else "") + "\x1b[J"

    def paint(self, block: Block, width: int, height: int, above: str = "") -> str:
        """Return what writes ``above`` to stay, and below it the lines in place of those from before."""
        block = block[-max(height - 1, 1) :]
        out = self.erase(width) + above.replace("\n", "\r\n")
        self._widths = [cell_len(line.plain) for line in block]
        return out + "\r\n".join(self._ink.lines(block))
