"""Losses with numbers that follow the run, such as running means."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dpotrain import hookimpl
from dpotrain.plugin.api import Loss


class RunningLoss(Loss):
    """Keeps numbers from step to step, and in checkpoints.

    What a step makes of them holds from the end of that step on, so that a step that is computed again, after it ran
    out of memory for instance, begins with the same. A step whose numbers are not finite changes nothing.
    """

    running: tuple[float, ...] | None = None
    """The numbers as they were after the last step; None before the first."""
    _next: tuple[float, ...] | None = None

    def keep(self, *numbers: float) -> None:
        """Make these the numbers as soon as the present step ends."""
        self._next = numbers

    @hookimpl
    def dpotrain_step_ended(self) -> None:
        """Take over what the step made of the numbers."""
        if self._next is not None and all(map(math.isfinite, self._next)):
            self.running = self._next

    def state_dict(self) -> Mapping[str, Any]:
        return {} if self.running is None else {"running": list(self.running)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.running = tuple(state["running"])
