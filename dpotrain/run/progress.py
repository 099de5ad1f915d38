"""Where a run stands besides its weights: what a checkpoint keeps of it, and what the summary says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


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

    def count(self, step: int, pairs: int, tokens: int, seconds: float) -> None:
        """Add a step."""
        self.step = step
        self.pairs += pairs
        self.tokens += tokens
        self.training_seconds += seconds

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Remember an evaluation, and whether it is the best by loss."""
        now = {"step": step, **metrics}
        self.first_evaluation = self.first_evaluation or now
        self.last_evaluation = now
        if not self.best_evaluation or now["loss"] < self.best_evaluation["loss"]:
            self.best_evaluation = now

    def as_json(self) -> dict[str, Any]:
        """Return plain data for a checkpoint."""
        return asdict(self)
