"""Speed, time left and recent means of a run, from the records of its steps."""

from __future__ import annotations

import math
from collections import deque

from dpotrain.core.records import StepRecord

#: Steps that shown speeds and metrics are averaged over.
RECENT_STEPS = 10


class Pace:
    """The recent steps, and the mean time of a step since the start of this process."""

    def __init__(self) -> None:
        self._recent: deque[StepRecord] = deque(maxlen=RECENT_STEPS)
        self._steps = 0
        self._seconds = 0.0
        self.last: StepRecord | None = None

    def add(self, record: StepRecord) -> None:
        """Add a step."""
        self._recent.append(record)
        self._steps += 1
        self._seconds += record.seconds
        self.last = record

    @property
    def steps(self) -> int:
        """How many steps the recent means cover."""
        return len(self._recent)

    @property
    def seconds_left(self) -> float:
        """Seconds until the last step, without evaluations and checkpoints; nan before the first."""
        if self.last is None:
            return math.nan
        return (self.last.total_steps - self.last.step) * self._seconds / self._steps

    @property
    def pairs_per_second(self) -> float | None:
        """Pairs per second of step time over the recent steps; None without any time."""
        return self._per_second(sum(record.pairs for record in self._recent))

    @property
    def tokens_per_second(self) -> float | None:
        """Real tokens per second of step time over the recent steps; None without any time."""
        return self._per_second(sum(record.tokens for record in self._recent))

    def mean(self, metric: str) -> float | None:
        """Return a metric's mean over the pairs of the recent steps, or None where no step has it."""
        have = [(record.metrics[metric], record.pairs) for record in self._recent if metric in record.metrics]
        pairs = sum(weight for _, weight in have)
        return sum(value * weight for value, weight in have) / pairs if pairs else None

    def _per_second(self, amount: int) -> float | None:
        seconds = sum(record.seconds for record in self._recent)
        return amount / seconds if seconds > 0 else None
