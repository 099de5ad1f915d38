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
    learning_rate: float = 0.0
    """Of the last step."""
    logged: dict[str, float] = field(default_factory=dict)
    """What plugins logged since the last record."""
    sampled: int | None = None
    """The step at which the policy was sampled last."""
    texts: int = 0
    """Tables of texts that plugins logged."""
    finish_reason: str = ""
    """Why a plugin asked the run to end early; empty while none has."""

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

    def judge_again(self, evaluations: Iterable[tuple[int, Mapping[str, float]]], best_by: BestBy) -> None:
        """Forget all evaluations, and remember these: a resumed run may have another metric that says which is best."""
        self.first_evaluation, self.last_evaluation, self.best_evaluation = {}, {}, {}
        self.evaluated_as = []
        for step, metrics in evaluations:
            if best_by.metric in metrics:
                self.evaluated(step, metrics, best_by)

    def best_of(self, steps: Iterable[int], best_by: BestBy) -> int | None:
        """Return which of these steps had the best evaluation, the first of equals; None where none had one.

        The policy before training is left out: it is what a checkpoint improves on.
        """
        values = dict(self.evaluated_as)
        best: int | None = None
        for step in steps:
            if step in values and step > 0 and (best is None or best_by.better(values[step], values[best])):
                best = step
        return best

    def best_step(self, best_by: BestBy) -> int | None:
        """Return the step of the best of all evaluations after the first step; None where there is none."""
        return self.best_of((step for step, _ in self.evaluated_as), best_by)


@dataclass
class RunState:
    """What the parts of a run share and a checkpoint keeps."""

    progress: Progress = field(default_factory=Progress)
    window: Window = field(default_factory=Window)
    """Sums since the last train record; the trainer adds each step to them."""
    began: float = field(default_factory=time.perf_counter)
    """When this process began, in seconds of :func:`time.perf_counter`."""
    final_step: int | None = None
    """The step of the policy in ``final/``; None until that is being written."""

    @property
    def step(self) -> int:
        """The last step that was taken; 0 before the first."""
        return self.progress.step

    def finish(self, reason: str) -> None:
        """Ask the run to end after the present step as if it had been its last; a resumed run ends there, too.

        Raises:
            ValueError: there is no reason to show.
        """
        if not isinstance(reason, str) or not reason.strip():
            raise ValueError(f"run.stop takes the reason, a few words; it is {reason!r}")
        self.progress.finish_reason = self.progress.finish_reason or reason

    def wall_seconds(self) -> float:
        """Return the time of the run so far, over all its processes one after the other."""
        return self.progress.wall_seconds + time.perf_counter() - self.began
