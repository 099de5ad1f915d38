"""Losses with numbers that follow the run, such as running means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dpotrain import hookimpl
from dpotrain.plugin.api import Loss

if TYPE_CHECKING:
    import torch


class RunningLoss(Loss):
    """Keeps numbers from step to step, and in checkpoints.

    What a step makes of them holds from the end of that step on, so that a step that is computed again, after it ran
    out of memory for instance, begins with the same. A step whose numbers are not finite changes nothing.

    They stay on the device: a step that read them would wait for it.
    """

    running: tuple[torch.Tensor, ...] | None = None
    """The numbers as they were after the last step, () float64 or int64 each; None before the first."""
    _next: tuple[torch.Tensor, ...] | None = None

    def keep(self, *numbers: torch.Tensor) -> None:
        """Make these the numbers as soon as the present step ends."""
        self._next = numbers

    @hookimpl
    def dpotrain_step_ended(self) -> None:
        """Take over what the step made of the numbers."""
        from torch import stack, where

        if self._next is None:
            return
        finite = stack([number.isfinite() for number in self._next]).all()
        if self.running is not None:
            both = zip(self._next, self.running, strict=True)
            self.running = tuple(where(finite, now, before.to(now.device)) for now, before in both)
        elif finite:  # waits for the device, as a rule once in a run
            self.running = self._next

    def state_dict(self) -> Mapping[str, Any]:
        return {} if self.running is None else {"running": [number.item() for number in self.running]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        from torch import float64, int64, tensor

        self.running = tuple(
            tensor(number, dtype=int64 if isinstance(number, int) else float64) for number in state["running"]
        )
