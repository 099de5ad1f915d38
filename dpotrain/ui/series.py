"""The course of a metric in bounded memory, however long the run."""

from __future__ import annotations

import math
from collections.abc import Sequence

#: Points that are kept; a chart has fewer columns.
MOST_POINTS = 512


class Series:
    """Points of a curve. Where there are too many, each two neighbours become their mean, and so do points to come."""

    def __init__(self) -> None:
        self.points: list[tuple[float, float]] = []
        """(step, value) in order."""
        self.last = math.nan
        self._merged = 1
        self._open: list[tuple[float, float]] = []

    def add(self, step: float, value: float) -> None:
        """Add a point; one that is not finite is left out."""
        if not math.isfinite(value):
            return
        self.last = value
        self._open.append((step, value))
        if len(self._open) < self._merged:
            return
        self.points.append(_mean(self._open))
        self._open = []
        if len(self.points) >= MOST_POINTS:
            pairs = zip(self.points[::2], self.points[1::2], strict=False)
            self.points = [_mean(pair) for pair in pairs]
            self._merged *= 2

    def drawn(self) -> list[tuple[float, float]]:
        """Return the points, with what is not merged yet."""
        return [*self.points, *([_mean(self._open)] if self._open else [])]


def _mean(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)
