"""Lines of text in blocks: side by side, at both ends, filled, wrapped."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from rich.cells import cell_len, set_cell_size
from rich.text import Text

#: Lines, none of them broken further.
Block = list[Text]


def beside(blocks: Sequence[Block], widths: Sequence[int], gap: int = 2) -> Block:
    """Return blocks side by side, each filled up to its width."""
    rows = []
    for cells in zip_longest(*blocks, fillvalue=None):
        row = Text(no_wrap=True)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True)):
            part = Text() if cell is None else cell.copy()
            part.truncate(width, overflow="ellipsis")
            if index < len(widths) - 1:
                part.append(" " * (width - cell_len(part.plain) + gap))
            row.append_text(part)
        rows.append(row)
    return rows


def ends(left: Text, right: Text, width: int) -> Text:
    """Return a line with one text at each end, the left one cut where there is no room."""
    room = width - cell_len(right.plain)
    if room < 1:
        right.truncate(width)
        return right
    left.truncate(room - 1, overflow="ellipsis")
    gap = room - cell_len(left.plain)
    return Text.assemble(left, " " * gap, right, no_wrap=True)


def fill(parts: Sequence[str], width: int, between: str = ", ") -> list[str]:
    """Return parts on as few lines as hold them whole."""
    lines: list[str] = []
    for part in parts:
        if lines and cell_len(lines[-1] + between + part) <= width:
            lines[-1] += between + part
        else:
            lines.append(part)
    return lines


def wrap(text: str, width: int) -> list[str]:
    """Return lines of whole words; a word that is longer than a line is cut where the line ends."""
    lines, line = [], ""
    for word in text.split(" "):
        if line and cell_len(line) + 1 + cell_len(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
        while cell_len(line) > width:
            piece = line[:width] if line.isascii() else set_cell_size(line, width).rstrip() or line[:1]
            lines.append(piece)
            line = line[len(piece) :]
    return [*lines, line] if line else lines
