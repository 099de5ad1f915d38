"""The curves of past runs on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.text import Text

from dpotrain.report import charts
from dpotrain.ui.chart import Curve, chart, plain
from dpotrain.ui.page.drawing import percent

#: Columns of charts in a file, and lines of each chart.
FILE_WIDTH = 96
_LINES = 11
#: Two charts stand side by side from the first width on; no chart is wider than the second.
_TWO_CHARTS, _WIDEST = 110, 100
_COLOURS = {"train": "blue", "eval": "yellow", "chosen": "green", "rejected": "magenta"}
#: Colours of runs on one chart, in order.
RUN_STYLES = ("blue", "yellow", "green", "magenta", "cyan", "red")


def chart_lines(found: Sequence[charts.Chart], width: int) -> Iterator[Text]:
    """Yield the lines of charts that stand below each other, or in two columns where there is room."""
    columns = 2 if width >= _TWO_CHARTS else 1
    each = min((width - 2 * (columns - 1)) // columns, _WIDEST)
    drawn = [_drawn(one, each) for one in found]
    for at in range(0, len(drawn), columns):
        for parts in zip(*drawn[at : at + columns], strict=True):
            line = Text(no_wrap=True, overflow="crop")
            for place, part in enumerate(parts):
                part.truncate(each, pad=place + 1 < len(parts))
                line.append("  " * (place > 0)).append_text(part)
            yield line
        yield Text()


def _drawn(one: charts.Chart, width: int) -> list[Text]:
    several_runs = any(isinstance(curve.colour, int) for curve in one.curves)
    shown = (
        _one_of_each_run(one.curves) if several_runs else sorted(one.curves, key=lambda c: c.kind == "eval")
    )
    curves = []
    for curve in shown:
        colour = curve.colour
        style = RUN_STYLES[colour % len(RUN_STYLES)] if isinstance(colour, int) else _COLOURS[colour]
        points = [*zip(curve.steps, curve.values, strict=True)]
        marks = curve.kind == "eval" and not several_runs
        name = curve.name.removesuffix(f", {curve.kind}") if several_runs else curve.name
        curves.append(Curve(name, points, style, one.write(curve.values[-1]), marks=marks))
    return chart(one.title, curves, width, _LINES, percent if one.bounds == (0.0, 1.0) else plain)


def _one_of_each_run(curves: Sequence[charts.Curve]) -> list[charts.Curve]:
    """Return the curve of each run's evaluations, or of its training where there is at most one evaluation."""
    found: dict[charts.Colour, charts.Curve] = {}
    for curve in curves:
        if curve.colour not in found or len(curve.values) > 1:
            found[curve.colour] = curve
    return [*found.values()]
