"""Axes of charts: which values are marked, and how they are written."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

#: A value that is larger is as good as infinite: differences of two of them must be finite.
_LARGEST = 1e150


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear axis from ``low`` to ``high``, marked at ``ticks``."""

    low: float
    high: float
    ticks: tuple[float, ...]
    labels: tuple[str, ...]

    def share(self, value: float) -> float:
        """Return where a value is on the axis: 0 at the low end, 1 at the high end."""
        return (value - self.low) / (self.high - self.low)


def scale_of(
    values: Iterable[float],
    most_ticks: int = 5,
    *,
    whole: bool = False,
    percent: bool = False,
    tight: bool = False,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Scale:
    """Return an axis that holds all finite ``values``, with about ``most_ticks`` round numbers marked on it.

    ``whole`` marks integers only, ``percent`` writes shares of 1 in percent. A ``tight`` axis ends at the values,
    another one at a mark; none goes beyond ``bounds``.
    """
    finite = [value for value in values if abs(value) < _LARGEST] or [0.0]
    low, high = min(finite), max(finite)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        around = abs(low) / 10 or 1.0
        low, high = low - around, high + around
    low, high = max(low, bounds[0]), min(high, bounds[1])
    step = _step((high - low) / max(1, most_ticks - 1))
    if whole:
        step = max(1.0, math.ceil(step))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if not tight:
        low, high = max(first * step, bounds[0]), min(last * step, bounds[1])
    ticks = [number * step for number in range(first, last + 1)]
    ticks = [tick for tick in ticks if low - step * 1e-9 <= tick <= high + step * 1e-9]
    return Scale(low, high, tuple(ticks), tuple(_label(tick, step, percent) for tick in ticks))


def _step(rough: float) -> float:
    """Return the next of 1, 2, 2.5 and 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(
        factor * power for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if factor * power >= rough * (1 - 1e-9)
    )


def _label(value: float, step: float, percent: bool) -> str:
    value, step = (value * 100, step * 100) if percent else (value, step)
    end = " %" if percent else ""
    if abs(value) < step * 1e-6:
        return f"0{end}"
    if step < 1e-4 or abs(value) >= 1e7:
        return f"{value:.3g}{end}".replace("e-0", "e-").replace("e+0", "e+")
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if not math.isclose(round(step, decimals), step, rel_tol=1e-6):
        decimals += 1  # 2.5
    return f"{value:,.{decimals}f}{end}"
