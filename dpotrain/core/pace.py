"""Speed, time left and recent means of a run, from the records of its steps."""

from __future__ import annotations

import math
from collections import deque

from dpotrain.core.records import StepRecord

#: Steps that shown speeds and metrics are averaged over.
RECENT_STEPS = 10


class Pace:
    """The recent steps, and the mean times of a step and of an evaluation since the start of this process."""

    def __init__(self, evaluate_every: int | None = None) -> None:
        """Begin; ``evaluate_every`` is the recipe's ``evaluation.every``, None where it has none."""
        self.evaluate_every = evaluate_every
        self.step = self.total_steps = 0
        self.last: StepRecord | None = None
        self._recent: deque[StepRecord] = deque(maxlen=RECENT_STEPS)
        self._steps = 0
        self._seconds = 0.0
        self._pause, self._pause_evaluates = 0.0, False
        self._evaluations: list[float] = []

    def add(self, record: StepRecord) -> None:
        """Add a step; what came since the one before is over."""
        if self._pause_evaluates:
            self._evaluations.append(self._pause)
        self._pause, self._pause_evaluates = 0.0, False
        self._recent.append(record)
        self._steps += 1
        self._seconds += record.seconds
        self.last = record
        self.step, self.total_steps = record.step, record.total_steps

    def pause(self, seconds: float) -> None:
        """Add a phase between two steps, or before the first."""
        # What came before the evaluation is no part of it: loading, for instance.
        self._pause = self._pause + seconds if self._pause_evaluates else seconds

    def evaluated(self) -> None:
        """Say that the last phase was an evaluation; those that follow, such as sampling, come with it."""
        self._pause_evaluates = True

    @property
    def steps(self) -> int:
        """How many steps the recent means cover."""
        return len(self._recent)

    @property
    def step_seconds(self) -> float:
        """The mean time of a step; nan before the first."""
        return self._seconds / self._steps if self._steps else math.nan

    def seconds_left(self, estimate: float = math.nan) -> float:
        """Return seconds until the end, with evaluations as far as their time is known; nan where nothing is known.

        ``estimate`` is the time of a step, by what is done of the first one, for where none is complete.
        """
        each = self.step_seconds if self._steps else estimate
        evaluation = (
            sum(self._evaluations) / len(self._evaluations) if self._evaluations else self._pause_so_far()
        )
        return (self.total_steps - self.step) * each + self._evaluations_to_come() * evaluation

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

    def _pause_so_far(self) -> float:
        return self._pause if self._pause_evaluates else 0.0

    def _evaluations_to_come(self) -> int:
        """Return how many evaluations follow: those between steps, and the one after the last step."""
        if self.step == self.total_steps:
            return int(not self._pause_evaluates)
        before = self.step if self._pause_evaluates else self.step - 1
        every = self.evaluate_every
        return 1 + (0 if every is None else (self.total_steps - 1) // every - max(before, 0) // every)

    def _per_second(self, amount: int) -> float | None:
        seconds = sum(record.seconds for record in self._recent)
        return amount / seconds if seconds > 0 else None
