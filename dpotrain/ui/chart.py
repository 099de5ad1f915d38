"""A chart of curves with axes, drawn with braille dots: a pure function of points and size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from rich.cells import cell_len
from rich.text import Text

from dpotrain.core.formats import count

#: The dots of a cell: two columns of four, as Unicode numbers them.
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_BRAILLE = 0x2800
#: Rows from one label of the vertical axis to the next, and the most that are labelled.
_ROWS_PER_LABEL = 3
#: A chart in fewer columns or lines would be all axes.
LEAST_WIDTH, LEAST_HEIGHT = 24, 5
MARK = "◆"

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Curve:
    """A line through points in order of x, or single marks."""

    label: str
    points: Points
    style: str
    value: str = ""
    """What the legend says beside the label: the newest value."""
    short: str = ""
    """What stands in the legend where there is no room for both; the value unless given."""
    marks: bool = False


def plain(value: float, each: float) -> str:
    """Return a label in as many decimals as labels ``each`` apart need; scientific for very small and large ones."""
    if abs(value) >= 1e6 or (each < 1e-3 and abs(value) < 100 * each):
        if abs(value) < each / 2:
            return "0"
        digits = math.floor(math.log10(abs(value)) + 1e-9) - math.floor(math.log10(each) + 1e-9)
        return f"{value:.{max(1, digits + (not _one_digit(each)))}e}"
    return f"{value + 0.0:.{max(0, -math.floor(math.log10(each) + 1e-9) + (not _one_digit(each)))}f}"


def _one_digit(each: float) -> bool:
    return math.isclose(each, round(each / (power := 10.0 ** math.floor(math.log10(each) + 1e-9))) * power)


def chart(
    title: str,
    curves: Sequence[Curve],
    width: int,
    height: int,
    write: Callable[[float, float], str] = plain,
    unit: str = "step",
) -> list[Text]:
    """Return a chart as ``height`` lines of at most ``width`` columns: title and legend, rows with scale, steps.

    ``write`` writes a label of the vertical axis, given how far apart labels are. Without a finite point the plot is
    empty.
    """
    legend = _legend(title, curves, width)
    rows = height - 2
    points = [point for curve in curves for point in curve.points if all(map(math.isfinite, point))]
    if not points:
        return [legend, Text("  no values yet", style="dim"), *[Text()] * (height - 2)]
    low, high = _scale([y for _, y in points])
    round_numbers, each = ticks(low, high, max(2, rows // _ROWS_PER_LABEL))
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    labels = {_row(tick, low, high, rows): write(tick, each) for tick in round_numbers}
    margin = max(map(len, labels.values()))
    columns = max(1, width - margin - 2)
    canvas = _Canvas(columns, rows, (left, right), (low, high))
    for curve in curves:
        canvas.draw(curve)
    lines = [legend]
    for row in range(rows):
        line = Text(f"{labels.get(row, ''):>{margin}} {'┤' if row in labels else '│'}", style="dim")
        lines.append(line.append_text(canvas.row(row)))
    lines.append(Text(" " * margin + " └" + _steps(left, right, columns, unit), style="dim"))
    return lines


def ticks(low: float, high: float, most: int) -> tuple[list[float], float]:
    """Return round numbers from ``low`` to ``high``, two to about ``most``, and how far apart they are."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for each in (power * factor for factor in (10, 5, 2.5, 2, 1, 0.5, 0.25, 0.2, 0.1)):
        first, last = math.ceil(low / each - 1e-9), math.floor(high / each + 1e-9)
        if last > first and each * most <= 4 * (high - low):
            return [number * each for number in range(first, last + 1)], each
    raise AssertionError("two multiples of a fifth of a range lie in it")


def _scale(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-30):  # one value: a scale of about its size around it
        half = abs(low) / 2 or 1.0
        return low - half, high + half
    return low, high


def _row(value: float, low: float, high: float, rows: int) -> int:
    return min(rows - 1, max(0, round((high - value) / (high - low) * (rows - 1))))


def _legend(title: str, curves: Sequence[Curve], width: int) -> Text:
    """Return title, marks, labels and newest values; where there is no room, what each curve has for short."""
    marks = [MARK if curve.marks else "─" for curve in curves]
    long = [
        "  " + " ".join(filter(None, (mark, curve.label, curve.value)))
        for mark, curve in zip(marks, curves, strict=True)
    ]
    short = [f"  {mark} {curve.short or curve.value}" for mark, curve in zip(marks, curves, strict=True)]
    fits = cell_len(title) + sum(map(cell_len, long)) <= width
    legend = Text(title, style="bold", no_wrap=True)
    for entry, curve in zip(long if fits else short, curves, strict=True):
        if cell_len(legend.plain) + cell_len(entry) <= width:
            legend.append(entry, style=f"not bold {curve.style}")
    return legend


def _steps(left: float, right: float, columns: int, unit: str) -> str:
    """Return the horizontal axis: the first and last step at its ends, the middle one where there is room."""
    first, last = count(round(left)), f"{count(round(right))} {unit}"
    middle = count(round((left + right) / 2)) if right - left >= 2 else ""
    if right == left:
        return f"─ {last} ".ljust(columns, "─")[:columns]
    line = list("─" * columns)

    def put(text: str, at: int) -> None:
        for offset, character in enumerate(f" {text} "):
            if 0 <= at + offset < columns:
                line[at + offset] = character

    if columns < len(first) + len(last) + 6:
        put(last, columns - len(last) - 2)
        return "".join(line)
    put(first, 0)
    put(last, columns - len(last) - 2)
    if middle and columns > len(first) + len(middle) + 2 * len(last) + 12:
        put(middle, columns // 2 - len(middle) // 2 - 1)
    return "".join(line)


class _Canvas:
    """Cells of two by four dots."""

    def __init__(
        self, columns: int, rows: int, across: tuple[float, float], along: tuple[float, float]
    ) -> None:
        self._columns, self._rows = columns, rows
        self._across, self._along = across, along
        self._cells: dict[tuple[int, int], int] = {}
        self._styles: dict[tuple[int, int], str] = {}
        self._marks: dict[tuple[int, int], str] = {}

    def draw(self, curve: Curve) -> None:
        """Draw a curve over what is there."""
        dots = self._dots(curve.points)
        if curve.marks:
            for x, y in dots:
                self._marks[y // 4, x // 2] = curve.style
            return
        for (x, y), (next_x, next_y) in pairwise([*dots, dots[-1]] if dots else []):
            for at in range(x, max(next_x, x + 1)):
                here = y + (next_y - y) * (at - x) / max(next_x - x, 1)
                there = y + (next_y - y) * (at + 1 - x) / max(next_x - x, 1)
                for row in range(round(min(here, there)), round(max(here, there)) + 1):
                    self._dot(at, row, curve.style)

    def row(self, row: int) -> Text:
        """Return a line of the plot."""
        line = Text()
        cells = [self._cell((row, column)) for column in range(self._columns)]
        for style, run in groupby(cells, key=lambda cell: cell[1]):
            line.append("".join(character for character, _ in run), style=style)
        line.rstrip()
        return line

    def _cell(self, at: tuple[int, int]) -> tuple[str, str]:
        """Return a cell's character and style."""
        if at in self._marks:
            return MARK, self._marks[at]
        if at in self._cells:
            return chr(_BRAILLE + self._cells[at]), self._styles[at]
        return " ", ""

    def _dots(self, points: Points) -> list[tuple[int, int]]:
        """Return a dot for each column of dots that has points, at their mean."""
        (left, right), (low, high) = self._across, self._along
        wide, tall = 2 * self._columns - 1, 4 * self._rows - 1
        sums: dict[int, tuple[float, int]] = {}
        for x, y in points:
            if math.isfinite(x) and math.isfinite(y):
                at = round((x - left) / (right - left) * wide) if right > left else wide // 2
                total, number = sums.get(at, (0.0, 0))
                sums[at] = total + y, number + 1
        # A label stands in the middle of its row, so the lowest and the highest value are two dots from the edges.
        return [
            (x, round(1.5 + (high - total / number) / (high - low) * (tall - 3)))
            for x, (total, number) in sorted(sums.items())
        ]

    def _dot(self, x: int, y: int, style: str) -> None:
        at = y // 4, x // 2
        if 0 <= at[0] < self._rows and 0 <= at[1] < self._columns:
            self._cells[at] = self._cells.get(at, 0) | _DOTS[x % 2][y % 4]
            self._styles[at] = style
