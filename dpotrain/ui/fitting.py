"""Tables that lose nothing on a narrow terminal."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

#: Wide enough for any cell on one line.
_ANY_WIDTH = 10_000


@dataclass(frozen=True, slots=True)
class Fitting:
    """A table whose cells are texts; where it is too wide, each row as lines: its first cell, below it the others.

    A row of lines names the other columns: ``before: 0.6931``. Cells of columns that are not wrapped, such as numbers,
    stay whole.
    """

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # Two spaces and a line, which may be a space, part two columns; there are edges, too.
        room = options.max_width - 3 * len(self.table.columns)
        ranges = [_range(column, console, options) for column in self.table.columns]
        least, most = sum(each.minimum for each in ranges), sum(each.maximum for each in ranges)
        if least <= room:
            # Left to itself, rich makes columns equally wide, and breaks words of one while another has room.
            share = min(1.0, (room - least) / max(1, most - least))
            for column, each in zip(self.table.columns, ranges, strict=True):
                column.width = each.minimum + int(share * (each.maximum - each.minimum))
            yield self.table
            return
        first, *others = self.table.columns
        yield Text()
        if first.header:
            yield Text(str(first.header), style="bold")
        for cell, *cells in zip(*(column.cells for column in self.table.columns), strict=True):
            yield _text(cell)
            for column, other in zip(others, cells, strict=True):
                if value := _text(other):
                    label = f"{column.header}: " if column.header else ""
                    yield Text.assemble("  ", (label, "dim"), value)


def _range(column: Column, console: Console, options: ConsoleOptions) -> Measurement:
    """Return the least columns of the terminal in which a table's column breaks no word, and those it has use for."""
    wide = options.update(max_width=_ANY_WIDTH)
    cells = [Measurement.get(console, wide, cell) for cell in (column.header, *column.cells)]
    most = max(cell.maximum for cell in cells)
    least = most if column.no_wrap else max(cell.minimum for cell in cells)
    limit = column.max_width or most
    return Measurement(min(least, limit), min(most, limit))


def _text(cell: object) -> Text:
    return cell if isinstance(cell, Text) else Text(str(cell))
