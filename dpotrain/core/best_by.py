"""How evaluations are ranked."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BestBy:
    """Which of two evaluations is the better one."""

    metric: str
    """As an evaluation's record names it."""
    lowest: bool

    def better(self, value: float, than: float) -> bool:
        """Whether ``value`` beats ``than``; what is not a number beats nothing."""
        if math.isnan(than):
            return not math.isnan(value)
        return value < than if self.lowest else value > than
