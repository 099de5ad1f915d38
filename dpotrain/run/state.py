"""Where a run is, besides its weights: counters, evaluations, the window of the next record, the clock."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dpotrain.core.records import BestBy
from dpotrain.engine.training.metrics import Window


@dataclass
class Progress:
    """Counters and evaluations that survive a resume."""

    step: int = 0
    pairs: float = 0.0
    tokens: float = 0.0
    training_seconds: float = 0.0
    """Time in steps alone, over all attempts."""
    wall_seconds: float = 0.0
    """Time of the attempts before this one."""
    last_train: dict[str, float] = field(default_factory=dict)
    first_evaluation: dict[str, float] = field(default_factory=dict)
    last_evaluation: dict[str, float] = field(default_factory=dict)
    best_evaluation: dict[str, float] = field(default_factory=dict)
    evaluated_as: list[tuple[int, float]] = field(default_factory=list)
    """Step, and the metric that says which evaluation is best, of every evaluation."""

    def count(self, step: int, pairs: int, tokens: int, seconds: float) -> None:
        """Add a step."""
        self.step = step
        self.pairs += pairs
        self.tokens += tokens
        self.training_seconds += seconds

    def evaluated(self, step: int, metrics: Mapping[str, float], best_by: BestBy) -> None:
        """Remember an evaluation, and whether it is the best."""
        now = {"step": step, **metrics}
        value = now[best_by.metric]
        self.first_evaluation = self.first_evaluation or now
        self.last_evaluation = now
        if not self.best_evaluation or best_by.better(value, self.best_evaluation[best_by.metric]):
            self.best_evaluation = now
        self.evaluated_as.append((step, value))

    def best_of(self, steps: Iterable[int], best_by: BestBy) -> int | None:
        """Return which of these steps had the best evaluation, the first of equals; None where none had one."""
        values = dict(self.evaluated_as)
        best: int | None = None
        for step in steps:
            if step in values and (best is None or best_by.better(values[step], values[best])):
                best = step
        return best


@dataclass
class RunState:
    """What the parts of a run share and a checkpoint keeps."""

    progress: Progress = field(default_factory=Progress)
    window: Window = field(default_factory=Window)
    """Sums since the last train record; the trainer adds each step to them."""
    began: float = field(default_factory=time.perf_counter)
    """When this process began, in seconds of :func:`time.perf_counter`."""

    @property
    def step(self) -> int:
        """The last step that was taken; 0 before the first."""
        return self.progress.step

    def wall_seconds(self) -> float:
        """Return the time of the run so far, over all its processes one after the other."""
        return self.progress.wall_seconds + time.perf_counter() - self.began
