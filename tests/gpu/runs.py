"""Runs by recipe, observed by a reporter that can end them after some steps."""

from __future__ import annotations

import contextlib
import gc
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch._dynamo

from dpotrain import load_recipe, train
from dpotrain.core.reporter import SilentReporter
from tests.benchmarks.clock import synchronize

if TYPE_CHECKING:
    from dpotrain.core.records import Outcome, StepRecord

_RECIPE = """\
seed = 1
[run]
output_dir = {output_dir}
cache_dir = false
[model]
use = "random"
shape = {shape}
[data]
use = "random"
format = "standard"
pairs = {pairs}
prompt = {prompt}
answer = {answer}
max_length = {longest}
[loss]
use = "dpo"
[training]
steps = {steps}
pairs_per_step = {pairs_per_step}
precision = "bf16"
[optimizer]
use = "adamw"
lr = 1e-5
[schedule]
use = "constant"
[checkpoints]
every = false
"""
LORA = {"adapter.use": "lora", "adapter.rank": 16}


class Enough(Exception):
    """Ends a run whose last steps and result are not needed."""


@dataclass(frozen=True)
class Work:
    """What a run computes: pairs of one length, so that all micro-batches are full."""

    shape: str
    prompt: int = 1024
    answer: int = 512
    pairs_per_step: int = 8
    steps: int = 5

    @property
    def pair(self) -> int:
        """Tokens of a pair."""
        return self.prompt + 2 * self.answer

    def write(self, folder: Path) -> Path:
        """Write the recipe, which runs into ``folder/run``, and return its path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "recipe.toml"
        text = _RECIPE.format(
            output_dir=json.dumps(str(folder / "run")),
            shape=json.dumps(self.shape),
            pairs=self.pairs_per_step * self.steps,
            prompt=self.prompt,
            answer=self.answer,
            longest=self.prompt + self.answer,
            steps=self.steps,
            pairs_per_step=self.pairs_per_step,
        )
        path.write_text(text, encoding="utf-8")
        return path


@dataclass
class Watch(SilentReporter):
    """Records losses, times and messages of a run, and ends it after ``enough`` steps."""

    enough: int | None = None
    after: Callable[[int], None] = lambda step: None
    """Called after each step with its number."""
    losses: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    """Time at which each step had finished on the device."""
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def step(self, record: StepRecord) -> None:
        synchronize()
        self.ends.append(time.perf_counter())
        self.losses.append(record.metrics["loss"])
        self.after(record.step)
        if record.step == self.enough:
            raise Enough

    def seconds_per_step(self, warm: int) -> float:
        """Return the mean over the steps after the first ``warm``."""
        return (self.ends[-1] - self.ends[warm - 1]) / (len(self.ends) - warm)


def run(recipe: Path, overrides: Mapping[str, Any], watch: Watch) -> Outcome | None:
    """Train, and return the outcome, None if the watch ended the run; then free the device's memory."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    outcome = None
    try:
        # The exception, whose frames hold the model, is released when the block ends.
        with contextlib.suppress(Enough):
            outcome = train(load_recipe(recipe, overrides), reporter=watch)
    finally:
        gc.collect()
        torch._dynamo.reset()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return outcome


def peak_gib() -> float:
    """Return the peak of device memory in the last run."""
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
