"""Where the time of a step goes, seen from outside: the parts that a trainer is made of are timed as it calls them.

The last step is profiled instead. On CUDA the clock waits for the device before and after each part, which costs speed:
never time a run with it.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from dpotrain.data.batches.plan import StepPlan
from dpotrain.engine.training import trainer as trainer_module
from dpotrain.engine.training.trainer import Trainer
from tests.benchmarks.clock import synchronize
from tests.benchmarks.groups import RANGE, marking_attention, seconds_by_group

#: What is timed; the rest of a step is clipping, checking and counting.
PARTS = ("data", "reference", "forward", "backward", "optimizer")


class Phases:
    """Seconds of each part, step by step, and of the last step by groups of operators."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.calls: list[dict[str, int]] = []
        self.groups: dict[str, dict[str, float]] = {}
        """By part and group, of the profiled step (see :mod:`.groups`)."""
        self._now = dict.fromkeys(PARTS, 0.0)
        self._calls = dict.fromkeys(PARTS, 0)
        self._inside = False

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function; what it calls that is timed as well counts as its own."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return function(*args, **kwargs)
            self._inside = True
            self._calls[part] += 1
            synchronize()
            began = time.perf_counter()
            try:
                with record_function(RANGE + part):
                    return function(*args, **kwargs)
            finally:
                synchronize()
                self._now[part] += time.perf_counter() - began
                self._inside = False

        return wrapped

    def step_ended(self, seconds: float) -> None:
        rest = seconds - sum(self._now.values())
        self.steps.append({**self._now, "rest": rest})
        self.calls.append(self._calls)
        self._now = dict.fromkeys(PARTS, 0.0)
        self._calls = dict.fromkeys(PARTS, 0)

    def mean(self) -> dict[str, float]:
        """Return seconds a step by part, without the first step, which warms up, and the last, which is profiled.

        Of two steps the last counts all the same. Raises RuntimeError where a part was never called: the trainer is
        then made of other parts.
        """
        means = _means(self.steps)
        if unseen := [part for part in PARTS if not means[part]]:
            raise RuntimeError(f"the trainer never called what is timed as {', '.join(unseen)}")
        return means

    def calls_per_step(self) -> dict[str, float]:
        """Return how often each part is called in one of these steps."""
        return _means(self.calls)


def _means(steps: list[dict[str, Any]]) -> dict[str, float]:
    counted = steps[1:-1] or steps[1:] or steps
    return {part: sum(step[part] for step in counted) / len(counted) for part in counted[0]}


@contextmanager
def watching() -> Iterator[Phases]:
    """Time the parts of every trainer that takes steps inside this context."""
    phases = Phases()
    train_step = Trainer.train_step
    watched: list[Trainer] = []

    def watched_step(trainer: Trainer, step: StepPlan) -> Any:
        if trainer not in watched:
            watched.append(trainer)
            _watch(trainer, phases)
        profiler = _profiler() if step.step == trainer.plan.total_steps else None
        if profiler is not None:
            profiler.start()
        began = time.perf_counter()
        with record_function(RANGE + "step"):
            record = train_step(trainer, step)
            synchronize()
        phases.step_ended(time.perf_counter() - began)
        if profiler is not None:
            profiler.stop()
            phases.groups = _groups(profiler)
        return record

    with (
        marking_attention(),
        mock.patch.object(Trainer, "train_step", watched_step),
        mock.patch.object(trainer_module, "pack", phases.timed("data", trainer_module.pack)),
        mock.patch.object(torch.Tensor, "backward", phases.timed("backward", torch.Tensor.backward)),
    ):
        yield phases


def _profiler() -> profile:
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    return profile(activities=activities)


def _groups(profiler: profile) -> dict[str, dict[str, float]]:
    """Return seconds of the profiled step by part and group; on CUDA those of the device while it computes."""
    own = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    # A kernel counts with the operator that launched it, and not again as an event of the device.
    events = [event for event in profiler.events() if event.device_type == DeviceType.CPU]
    return seconds_by_group(events, PARTS, lambda event: getattr(event, own) / 1e6)


def _watch(trainer: Trainer, phases: Phases) -> None:
    for owner, method, part in (
        (trainer.reference, "scores", "reference"),
        (trainer.scorer, "forward", "forward"),
        (trainer.optimizer, "step", "optimizer"),
    ):
        setattr(owner, method, phases.timed(part, getattr(owner, method)))
