"""The built-in learning-rate schedules: constant, linear and cosine, each after a linear warm-up."""

from __future__ import annotations

import math
from abc import abstractmethod

from pydantic import Field, model_validator

from dpotrain import hookimpl
from dpotrain.plugin.api import Schedule

dpotrain_interface = 2


class _AfterWarmup(Schedule):
    """Rises linearly to the peak, then takes a shape of its own.

    Warm-up reaches the peak in its last step, so that no update has a learning rate of zero.
    """

    class Options(Schedule.Options):
        warmup_fraction: float = Field(
            0.0, ge=0, lt=1, description="Share of all steps that warms up linearly."
        )
        warmup_steps: int | None = Field(None, ge=0, description="Warm-up in steps instead of a share.")

        @model_validator(mode="after")
        def _one_warmup(self) -> _AfterWarmup.Options:
            if self.warmup_steps is not None and self.warmup_fraction:
                raise ValueError("warmup_steps and warmup_fraction exclude each other; keep one")
            return self

    options: Options

    def factor(self, step: int, total_steps: int) -> float:
        if self.options.warmup_steps is not None:
            warmup = min(self.options.warmup_steps, total_steps)
        else:  # 0.07 * 100 is a little more than 7
            warmup = math.ceil(round(self.options.warmup_fraction * total_steps, 9))
        if step <= warmup:
            return step / warmup
        return self._shape((step - 1 - warmup) / max(1, total_steps - warmup))

    @abstractmethod
    def _shape(self, done: float) -> float:
        """Return the factor where the share ``done`` of the steps after warm-up lies behind: 0 in the first of them."""


class Constant(_AfterWarmup):
    """Stays at the peak."""

    name = "constant"

    def _shape(self, done: float) -> float:
        return 1.0


class _Falling(_AfterWarmup):
    """Falls to a floor, which the step after the last would have."""

    class Options(_AfterWarmup.Options):
        min_lr_fraction: float = Field(
            0.0, ge=0, le=1, description="Learning rate at the end, as a share of the peak."
        )

    options: Options

    def _shape(self, done: float) -> float:
        floor = self.options.min_lr_fraction
        return floor + (1.0 - floor) * self._left(done)

    @abstractmethod
    def _left(self, done: float) -> float:
        """Return how much of the way down to the floor is left."""


class Linear(_Falling):
    """Falls in a straight line."""

    name = "linear"

    def _left(self, done: float) -> float:
        return 1.0 - done


class Cosine(_Falling):
    """Falls along half a cosine (Loshchilov & Hutter 2017, arXiv 1608.03983, equation 5, one cycle)."""

    name = "cosine"

    def _left(self, done: float) -> float:
        return 0.5 * (1.0 + math.cos(math.pi * done))


@hookimpl
def dpotrain_schedules() -> list[type[Schedule]]:
    return [Constant, Linear, Cosine]
