"""Numbers, durations and sizes as text: pure functions, for nan and infinities too."""

from __future__ import annotations

import itertools
import math
import unicodedata
from collections.abc import Sequence

_BLOCKS = "▁▂▃▄▅▆▇█"


def number(value: float) -> str:
    """Return a loss, reward or margin: four decimals, or scientific notation for very large values.

    What rounds to zero beside such figures is ``0.0000``: the rounding of float32 has no digits worth reading.
    """
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 1e5:
        return f"{value:.2e}"
    return f"{round(value, 4) + 0.0:.4f}"  # + 0.0 removes the sign of a negative zero


def magnitude(value: float) -> str:
    """Return a gradient norm: as :func:`number`, but scientific for small values, which mean something there."""
    if value and math.isfinite(value) and abs(value) < 1e-3:
        return f"{value:.2e}"
    return number(value)


def signed(value: float) -> str:
    """Return :func:`number` with its sign."""
    text = number(value)
    return text if text.startswith("-") or math.isnan(value) else f"+{text}"


def learning_rate(value: float) -> str:
    """Return a learning rate in scientific notation: ``5.0e-07``."""
    return f"{value:.1e}"


def share(value: float) -> str:
    """Return a share of 1 in percent: ``0.525`` is ``52.5 %``."""
    if not math.isfinite(value):
        return str(value)
    return f"{value * 100:.1f} %"


def points(value: float) -> str:
    """Return the difference of two shares in percentage points, signed."""
    if not math.isfinite(value):
        return str(value)
    return f"{value * 100:+.1f} points"


def interval(low: float, high: float) -> str:
    """Return an interval of shares of 1: ``15.8 to 75.0 %``; empty where it is unknown."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"{low * 100:.1f} to {high * 100:.1f} %"


def rate(value: float) -> str:
    """Return a speed with at least three digits: ``0.0312``, ``12.3``, ``2,345``."""
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.1f}"


def duration(seconds: float) -> str:
    """Return a time span in its two largest units: ``0.4s``, ``42s``, ``3m05s``, ``2h07m``, ``3d04h``."""
    if not math.isfinite(seconds):
        return "?"
    seconds = max(seconds, 0.0)
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60}h{minutes % 60:02d}m"
    hours = round(seconds / 3600)
    return f"{hours // 24}d{hours % 24:02d}h"


def megabytes(value: float) -> str:
    """Return a size, given in MiB: ``512 MB``, ``3.2 GB``."""
    if not math.isfinite(value):
        return "?"
    if value < 1000:
        return f"{value:.0f} MB"
    return f"{value / 1024:.1f} GB"


def count(value: int) -> str:
    """Return an integer with thousands separators: ``4,884,480``."""
    return f"{value:,}"


def plural(value: int, one: str, many: str = "") -> str:
    """Return ``1 step`` or ``2 steps``; ``many`` where it is not ``one`` with an s."""
    return f"{value:,} {one if value == 1 else many or one + 's'}"


def printable(text: str) -> str:
    """Return the text without control characters, so that data cannot move a terminal's cursor.

    Line ends stay, a tab becomes a space, any other control character the replacement character.
    """
    text = text.replace("\r\n", "\n").replace("\t", " ").replace("\r", " ")
    return "".join(c if c == "\n" or unicodedata.category(c) not in ("Cc", "Cs") else "\ufffd" for c in text)


def sparkline(values: Sequence[float], width: int) -> str:
    """Return the values as at most ``width`` block characters, each the mean of an equal number of values.

    Values that are not finite are skipped; constant values are a line in the middle.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite or width < 1:
        return ""
    cells = min(width, len(finite))
    edges = [len(finite) * cell // cells for cell in range(cells + 1)]
    means = [math.fsum(finite[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    if high == low:
        return _BLOCKS[3] * cells
    return "".join(_BLOCKS[min(int((mean - low) / (high - low) * 8), 7)] for mean in means)
