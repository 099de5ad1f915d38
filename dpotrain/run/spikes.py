"""Loss spikes: a loss far above those of the steps before it is reported; nothing is done about it."""

from __future__ import annotations

import math
import statistics
from collections import deque

#: Steps that a loss is compared with, how many there must be, and how many of their deviations is too far.
WINDOW, ENOUGH, FAR = 64, 16, 8.0
#: A median absolute deviation is so much of a normal distribution's standard deviation.
NORMAL = 0.6745
#: Below this share of the median a spread is taken to be this: a quiet loss that moves a little is no spike.
LEAST = 0.05


class SpikeWatch:
    """Compares each step's loss with the median of those before it."""

    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._above = False

    def warning(self, step: int, loss: float) -> str:
        """Take a step's loss; return what to tell a person where it is the first of a spike, and "" otherwise.

        A loss that is not finite is left out of the window, in which it would make every other look usual, or none.
        """
        if not math.isfinite(loss):
            return ""
        usual = self._usual()
        self._losses.append(loss)
        if usual is None:
            return ""
        median, spread = usual
        was_above, self._above = self._above, loss > median + FAR * spread
        if was_above or not self._above:
            return ""
        return (
            f"step {step}: the loss jumped to {loss:.4g}; over the {len(self._losses) - 1} steps before it the median "
            f"was {median:.4g}. If it does not come down again, lower optimizer.lr or training.max_grad_norm"
        )

    def _usual(self) -> tuple[float, float] | None:
        """Return the median and the standard deviation that the middle of the losses suggests."""
        if len(self._losses) < ENOUGH:
            return None
        median = statistics.median(self._losses)
        spread = statistics.median(abs(loss - median) for loss in self._losses) / NORMAL
        return median, max(spread, LEAST * abs(median))
