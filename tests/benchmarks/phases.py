"""Where the time of a step goes, seen from outside: the parts that a trainer is made of are timed as it calls them.

On CUDA the clock waits for the device before and after each part, which costs speed: never time a run with it.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

from dpotrain.engine.training import trainer as trainer_module
from dpotrain.engine.training.trainer import Trainer
from tests.benchmarks.clock import synchronize

#: What is timed; the rest of a step is clipping, checking and counting.
PARTS = ("data", "reference", "forward", "backward", "optimizer")


class Phases:
    """Seconds of each part, step by step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self._now = dict.fromkeys(PARTS, 0.0)
        self._inside = False

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function; what it calls that is timed as well counts as its own."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return function(*args, **kwargs)
            self._inside = True
            synchronize()
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                synchronize()
                self._now[part] += time.perf_counter() - began
                self._inside = False

        return wrapped

    def step_ended(self, seconds: float) -> None:
        rest = seconds - sum(self._now.values())
        self.steps.append({**self._now, "rest": rest})
        self._now = dict.fromkeys(PARTS, 0.0)

    def mean(self) -> dict[str, float]:
        """Return seconds a step by part, without the first step, which warms up.

        Raises RuntimeError where a part was never called: the trainer is then made of other parts.
        """
        steps = self.steps[1:] or self.steps
        means = {part: sum(step[part] for step in steps) / len(steps) for part in steps[0]}
        if unseen := [part for part in PARTS if not means[part]]:
            raise RuntimeError(f"the trainer never called what is timed as {', '.join(unseen)}")
        return means


@contextmanager
def watching() -> Iterator[Phases]:
    """Time the parts of every trainer that takes steps inside this context."""
    phases = Phases()
    train_step = Trainer.train_step
    watched: list[Trainer] = []

    def watched_step(trainer: Trainer, *args: Any, **kwargs: Any) -> Any:
        if trainer not in watched:
            watched.append(trainer)
            _watch(trainer, phases)
        began = time.perf_counter()
        record = train_step(trainer, *args, **kwargs)
        synchronize()
        phases.step_ended(time.perf_counter() - began)
        return record

    with (
        mock.patch.object(Trainer, "train_step", watched_step),
        mock.patch.object(trainer_module, "pack", phases.timed("data", trainer_module.pack)),
        mock.patch.object(torch.Tensor, "backward", phases.timed("backward", torch.Tensor.backward)),
    ):
        yield phases


def _watch(trainer: Trainer, phases: Phases) -> None:
    for owner, method, part in (
        (trainer.reference, "scores", "reference"),
        (trainer.scorer, "forward", "forward"),
        (trainer.optimizer, "step", "optimizer"),
    ):
        setattr(owner, method, phases.timed(part, getattr(owner, method)))
