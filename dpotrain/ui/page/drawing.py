"""Charts as geometry: what the page's templates draw as SVG, in user units, and what shows under the pointer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from dpotrain.core.formats import count, interval, number
from dpotrain.report.charts import Chart, Colour, Curve
from dpotrain.report.margins import Course
from dpotrain.ui.chart import plain, ticks

WIDTH, HEIGHT = 400.0, 240.0
LEFT, RIGHT, TOP, BOTTOM = 50.0, 12.0, 10.0, 30.0
#: Colours for runs; more runs begin again.
RUN_COLOURS = 8

Hover = dict[str, object]
#: Writes a mark of an axis, given how far apart marks are.
Label = Callable[[float, float], str]


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis from ``low`` to ``high``, with round numbers marked."""

    low: float
    high: float
    marks: tuple[tuple[float, str], ...]

    def share(self, value: float) -> float:
        """Return where a value is: 0 at the low end, 1 at the high end."""
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark of an axis: its place in user units, and its text."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Line:
    """A curve: the ``d`` of its path, and of the whiskers of its intervals."""

    name: str
    colour: str
    """Suffix of a CSS class: ``train``, ``run3``."""
    kind: str
    path: str
    whiskers: str
    points: tuple[tuple[float, float, str], ...]
    """Place and text of each single point; of an eval curve only."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A chart in a box of WIDTH by HEIGHT."""

    key: str
    title: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    x_title: str
    lines: tuple[Line, ...]
    hover: tuple[Hover, ...] = ()
    bars: tuple[tuple[float, float, float, float, str, str], ...] = ()
    """x, y, width, height, colour, text."""
    zero: tuple[float | None, float | None] = (None, None)
    """Where the vertical and the horizontal line of zero are."""
    y_title: str = ""


def draw(chart: Chart) -> Drawing:
    """Return the drawing of a chart over steps."""
    x = _scale(_all(curve.steps for curve in chart.curves), 8, _whole, room=0.0)
    heights = [*_all(curve.values for curve in chart.curves)]
    heights += [*_all(each for curve in chart.curves for each in curve.intervals)]
    y = _scale(heights, 8, percent if chart.bounds == (0.0, 1.0) else plain, bounds=chart.bounds)
    return Drawing(
        key=chart.key,
        title=chart.title,
        x_ticks=_x_ticks(x),
        y_ticks=_y_ticks(y),
        x_title="step",
        lines=tuple(_line(curve, x, y, chart.write) for curve in chart.curves),
        hover=tuple(_hover(curve, x, y, chart.write) for curve in chart.curves),
        zero=(None, _y(y, 0.0) if y.low < 0 < y.high else None),
    )


def draw_scatter(courses: Sequence[Course]) -> Drawing:
    """Return each pair as a point: its margin at the first and at the last evaluation."""
    first, last = courses[0].steps[0], courses[0].steps[-1]
    x = _scale([0.0, *(course.margins[0] for course in courses)], 8)
    y = _scale([0.0, *(course.margins[-1] for course in courses)], 8)
    points = tuple(
        (
            round(_x(x, course.margins[0]), 1),
            round(_y(y, course.margins[-1]), 1),
            f"{course.pair.place}: {number(course.margins[0])}, then {number(course.margins[-1])}\n"
            f"{course.pair.prompt}",
        )
        for course in courses
    )
    by_colour = {
        colour: tuple(p for p, c in zip(points, courses, strict=True) if (c.margins[-1] > 0) == good)
        for colour, good in (("chosen", True), ("rejected", False))
    }
    names = {"chosen": f"right at step {count(last)}", "rejected": f"wrong at step {count(last)}"}
    lines = tuple(
        Line(names[colour], colour, "dots", "", "", some) for colour, some in by_colour.items() if some
    )
    zero = _x(x, 0.0), _y(y, 0.0)
    return Drawing(
        *("margins", "each held-out pair", _x_ticks(x), _y_ticks(y), f"margin at step {count(first)}", lines),
        zero=zero,
        y_title=f"margin at step {count(last)}",
    )


def draw_histogram(courses: Sequence[Course]) -> Drawing:
    """Return how many pairs have which margin, at the first and at the last evaluation."""
    steps = sorted({courses[0].steps[0], courses[0].steps[-1]})
    places = [courses[0].steps.index(step) for step in steps]
    values = [[course.margins[place] for course in courses] for place in places]
    x = _scale([0.0, *_all(values)], 7)
    bins = max(6, min(24, round(2 * math.sqrt(len(courses)))))
    width = (x.high - x.low) / bins
    counts = []
    for margins in values:
        of_bins = [0] * bins
        for margin in margins:
            of_bins[min(bins - 1, max(0, int((margin - x.low) / width)))] += 1
        counts.append(of_bins)
    y = _scale([0.0, *_all(counts)], 5, _whole, bounds=(0.0, math.inf))
    bars, lines = [], []
    for step, of_bins, colour in zip(steps, counts, ("train", "eval"), strict=False):
        lines.append(Line(f"step {count(step)}", colour, "bars", "", "", ()))
        for place, pairs in enumerate(of_bins):
            low = x.low + place * width
            left, top = _x(x, low), _y(y, pairs)
            text = f"step {count(step)}: {count(pairs)} pairs from {number(low)} to {number(low + width)}"
            if pairs:
                bars.append((left, top, _x(x, low + width) - left - 0.8, HEIGHT - BOTTOM - top, colour, text))
    zero = _x(x, 0.0) if x.low < 0 < x.high else None
    return Drawing(
        *(
            "margin-histogram",
            "margins of all held-out pairs",
            _x_ticks(x),
            _y_ticks(y),
            "margin",
            tuple(lines),
        ),
        bars=tuple(tuple(round(v, 1) for v in bar[:4]) + bar[4:] for bar in bars),  # type: ignore[misc]
        zero=(zero, None),
        y_title="pairs",
    )


def sparkline_path(values: Sequence[float], width: float = 120.0, height: float = 28.0) -> tuple[str, float]:
    """Return the path of a small curve, and the height of zero in it."""
    y = _scale([0.0, *values], 2)
    across = width - 4

    def point(place: int, value: float) -> tuple[float, float]:
        left = 2 + across * (place / (len(values) - 1) if len(values) > 1 else 0.5)
        return left, 2 + (height - 4) * (1 - y.share(value))

    return _path([point(*each) for each in enumerate(values)]), round(point(0, 0.0)[1], 1)


def percent(value: float, each: float) -> str:
    """Return a mark of an axis of shares of 1."""
    return f"{plain(value * 100, each * 100)} %"


def colour_of(colour: Colour) -> str:
    """Return the suffix of the CSS classes of a colour."""
    return f"run{colour % RUN_COLOURS}" if isinstance(colour, int) else colour


def _all(parts: Iterable[Iterable[float]]) -> Iterable[float]:
    return (value for part in parts for value in part)


def _scale(
    values: Iterable[float],
    most: int,
    label: Label = plain,
    *,
    room: float = 0.04,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Scale:
    """Return an axis for the finite values with ``room`` at both ends, a share of its length, inside ``bounds``."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        around = abs(low) / 10 or 1.0
        low, high = low - around, high + around
    more = (high - low) * room
    low, high = max(low - more, bounds[0]), min(high + more, bounds[1])
    found, each = ticks(low, high, most)
    return Scale(low, high, tuple((at, text) for at in found if (text := label(at, each))))


def _whole(value: float, each: float) -> str:
    """Return a mark of an axis of integers; others have none."""
    return count(round(value)) if abs(value - round(value)) < each * 1e-6 else ""


def _x(scale: Scale, value: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * scale.share(value)


def _y(scale: Scale, value: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - scale.share(value))


def _x_ticks(scale: Scale) -> tuple[Tick, ...]:
    return tuple(Tick(round(_x(scale, at), 1), label) for at, label in scale.marks)


def _y_ticks(scale: Scale) -> tuple[Tick, ...]:
    return tuple(Tick(round(_y(scale, at), 1), label) for at, label in scale.marks)


def _line(curve: Curve, x: Scale, y: Scale, write: Callable[[float], str]) -> Line:
    places = [
        (_x(x, step), _y(y, value)) if math.isfinite(value) else None
        for step, value in zip(curve.steps, curve.values, strict=True)
    ]
    whiskers = "".join(
        f"M{_x(x, step):.1f} {_y(y, low):.1f}V{_y(y, high):.1f}"
        for step, (low, high) in zip(curve.steps, curve.intervals, strict=False)
        if math.isfinite(low)
    )
    points: list[tuple[float, float, str]] = []
    if curve.kind == "eval" or len(curve.values) == 1:
        points = [
            (round(place[0], 1), round(place[1], 1), f"{curve.name}, step {count(int(step))}: {text}")
            for place, step, text in zip(places, curve.steps, _texts(curve, write), strict=True)
            if place is not None
        ]
    return Line(curve.name, colour_of(curve.colour), curve.kind, _path(places), whiskers, tuple(points))


def _hover(curve: Curve, x: Scale, y: Scale, write: Callable[[float], str]) -> Hover:
    return {
        "name": curve.name,
        "colour": colour_of(curve.colour),
        "points": [
            [round(_x(x, step), 1), round(_y(y, value), 1), count(round(step)), text]
            for step, value, text in zip(curve.steps, curve.values, _texts(curve, write), strict=True)
            if math.isfinite(value)
        ],
    }


def _texts(curve: Curve, write: Callable[[float], str]) -> list[str]:
    """Return each value in full, with its interval."""
    texts = [*map(write, curve.values)]
    for place, bounds in enumerate(curve.intervals):
        if between := interval(*bounds):
            texts[place] += f" ({between})"
    return texts


def _path(places: Sequence[tuple[float, float] | None]) -> str:
    """Return the path through the places, broken where there is None."""
    parts = []
    for before, place in pairwise([None, *places]):
        if place is not None:
            parts.append(f"{'M' if before is None else 'L'}{place[0]:.1f} {place[1]:.1f}")
    return "".join(parts)
