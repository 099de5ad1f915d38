"""The built-in learning-rate schedules, each after a linear warm-up."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Literal

from pydantic import Field, model_validator

from dpotrain import hookimpl
from dpotrain.plugin.api import Schedule

dpotrain_interface = 2

#: Of ``inverse-sqrt`` without a warm-up, as transformers has it.
_TIMESCALE = 10_000
#: Share of the steps in which ``wsd`` falls; MiniCPM's.
_DECAY = 0.1


def _steps(fraction: float, total_steps: int) -> int:
    """Return a share of all steps, rounded up."""
    return math.ceil(round(fraction * total_steps, 9))  # 0.07 * 100 is a little more than 7


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
        else:
            warmup = _steps(self.options.warmup_fraction, total_steps)
        if step <= warmup:
            return step / warmup
        return self._after(step - 1 - warmup, warmup, total_steps)

    @abstractmethod
    def _after(self, behind: int, warmup: int, total_steps: int) -> float:
        """Return the factor where ``behind`` of the steps after warm-up lie behind: 0 in the first of them."""


class Constant(_AfterWarmup):
    """Stays at the peak."""

    name = "constant"

    def _after(self, behind: int, warmup: int, total_steps: int) -> float:
        return 1.0


class _Falling(_AfterWarmup):
    """Falls to a floor, which the step after the last would have."""

    class Options(_AfterWarmup.Options):
        min_lr_fraction: float = Field(
            0.0, ge=0, le=1, description="Learning rate at the end, as a share of the peak."
        )

    options: Options

    def _after(self, behind: int, warmup: int, total_steps: int) -> float:
        floor = self.options.min_lr_fraction
        return floor + (1.0 - floor) * self._left(behind, warmup, total_steps)

    @abstractmethod
    def _left(self, behind: int, warmup: int, total_steps: int) -> float:
        """Return how much of the way down to the floor is left."""


class Linear(_Falling):
    """Falls in a straight line."""

    name = "linear"

    def _left(self, behind: int, warmup: int, total_steps: int) -> float:
        return _linear(behind / max(1, total_steps - warmup))


class Cosine(_Falling):
    """Falls along half a cosine (Loshchilov & Hutter 2017, arXiv 1608.03983, equation 5, one cycle)."""

    name = "cosine"

    def _left(self, behind: int, warmup: int, total_steps: int) -> float:
        return _cosine(behind / max(1, total_steps - warmup))


class WarmupStableDecay(_Falling):
    """Stays at the peak and falls in the last steps (WSD; Hu et al. 2024, MiniCPM, arXiv 2404.06395)."""

    name = "wsd"

    class Options(_Falling.Options):
        decay_fraction: float | None = Field(
            None, gt=0, le=1, description="Share of all steps in which it falls; 0.1 unless set."
        )
        decay_steps: int | None = Field(
            None,
            ge=1,
            description="Steps in which it falls, instead of a share; at most those after warm-up.",
        )
        shape: Literal["linear", "cosine", "1-sqrt"] = Field(
            "linear",
            description='How it falls; "1-sqrt" is 1 less the root of the share that lies behind '
            "(Hägele et al. 2024, arXiv 2405.18392).",
        )

        @model_validator(mode="after")
        def _fits(self) -> WarmupStableDecay.Options:
            if self.decay_steps is not None and self.decay_fraction is not None:
                raise ValueError("decay_steps and decay_fraction exclude each other; keep one")
            if self.warmup_fraction + (self.decay_fraction or 0.0) > 1:
                raise ValueError("warmup_fraction and decay_fraction are more than 1 together")
            return self

    options: Options

    def _left(self, behind: int, warmup: int, total_steps: int) -> float:
        after = total_steps - warmup
        steps = self.options.decay_steps or _steps(self.options.decay_fraction or _DECAY, total_steps)
        decay = min(steps, after)
        falling = behind - (after - decay)
        return _SHAPES[self.options.shape](falling / decay) if falling > 0 else 1.0


class InverseSqrt(_AfterWarmup):
    """Falls with the inverse square root of the step (Vaswani et al. 2017, arXiv 1706.03762, section 5.3).

    `sqrt(t / (t + n))`, where `n` of the steps after warm-up lie behind and `t` is `timescale`, as transformers has
    it. It does not depend on the length of the run, so a longer one can go on from it.
    """

    name = "inverse-sqrt"

    class Options(_AfterWarmup.Options):
        timescale: int | None = Field(
            None, ge=1, description="In steps; unset, those of warm-up, and 10000 without a warm-up."
        )

    options: Options

    def _after(self, behind: int, warmup: int, total_steps: int) -> float:
        timescale = self.options.timescale or warmup or _TIMESCALE
        return math.sqrt(timescale / (timescale + behind))


def _linear(done: float) -> float:
    return 1.0 - done


def _cosine(done: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * done))


def _one_minus_sqrt(done: float) -> float:
    return 1.0 - math.sqrt(done)


#: What is left of the way down where a share of it is done.
_SHAPES = {"linear": _linear, "cosine": _cosine, "1-sqrt": _one_minus_sqrt}


@hookimpl
def dpotrain_schedules() -> list[type[Schedule]]:
    return [Constant, Linear, Cosine, WarmupStableDecay, InverseSqrt]
