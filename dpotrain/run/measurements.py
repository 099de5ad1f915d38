"""What runs on this machine measured, in a small file of the cache folder, from which ``dpotrain plan`` learns.

The file says how fast steps of a model were and how much memory its allocator took beyond what was counted. It is only
shown and planned with: no number that a run computes depends on it.
"""

from __future__ import annotations

import json
import platform
import statistics
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dpotrain.core.atomic import write_json
from dpotrain.core.records import Outcome
from dpotrain.engine.memory.layout import ONE_DEVICE, Layout
from dpotrain.engine.memory.model_size import ModelSize
from dpotrain.engine.memory.planner import MemoryPlan
from dpotrain.recipe.recipe import Recipe

#: The file in the cache folder; the most bytes of it that are read, runs that are kept, and of them runs of one key.
FILE = "measured.json"
_MOST_BYTES = 2**18
_MOST_RUNS, _MOST_OF_A_KEY = 200, 5
#: Steps from which on a run's speed means something.
FEWEST_STEPS = 5


class Measurement(BaseModel):
    """One run."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    key: str = Field(max_length=500)
    rate: float = Field(gt=0, lt=1e18)
    """Floating-point operations a second that its steps reached, by :class:`dpotrain.run.speed.ModelWork`."""
    process: float = Field(ge=0, lt=1e13)
    """Bytes in use before training, besides the weights: libraries, tokenizer, data."""
    allocator: float = Field(ge=-1, le=10)
    """Peak memory beyond what was counted, as a share of the activations."""
    loading: float = Field(ge=0, lt=1e6)
    """Seconds from the start to the first evaluation, without the tokenizing and the reference's pass."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What several runs of one key come to: medians."""

    runs: int
    rate: float
    process: float
    allocator: float
    loading: float


def key_of(recipe: Recipe, size: ModelSize, *, device: str, precision: str, packed: bool) -> str:
    """Return what has to be the same for a run to tell of another: device, model, and how it is trained.

    ``device`` is its name, with the number of threads or processes.
    """
    parts = (recipe.adapter, recipe.quantizer, recipe.optimizer)
    facts = [
        *(device, precision, "packed" if packed else "padded", "compiled" * recipe.training.compile),
        *(
            f"{size.parameters}/{size.trained_parameters}",
            *("" if part is None else part.name for part in parts),
        ),
    ]
    return "|".join(facts)[:500]


def look_up(cache: Path | None, key: str) -> Learned | None:
    """Return what the runs of a key measured; None without any. Whatever else the file holds is ignored."""
    found = [one for one in _read(cache) if one.key == key]
    if not found:
        return None
    medians = (
        statistics.median(getattr(one, name) for one in found)
        for name in ("rate", "process", "allocator", "loading")
    )
    return Learned(len(found), *medians)


def remember(cache: Path | None, measured: Measurement) -> None:
    """Add a run; the oldest of its key, and of all, make room. A file that cannot be written is done without."""
    if cache is None:
        return
    runs = [*_read(cache), measured]
    same = [one for one in runs if one.key == measured.key]
    dropped = {id(one) for one in same[:-_MOST_OF_A_KEY]}
    kept = [one for one in runs if id(one) not in dropped][-_MOST_RUNS:]
    with suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
        write_json(cache / FILE, {"runs": [one.model_dump() for one in kept]})


def _read(cache: Path | None) -> list[Measurement]:
    if cache is None:
        return []
    try:
        with (cache / FILE).open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
        entries: Any = json.loads(text)["runs"] if len(text) <= _MOST_BYTES else []
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return []
    found = []
    for entry in entries if isinstance(entries, list) else []:
        with suppress(ValidationError):
            found.append(Measurement.model_validate(entry))
    return found


def device_name(device: torch.device, layout: Layout = ONE_DEVICE) -> str:
    """Return what a key calls devices: their name, how many threads or processes compute, and in which layout."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{platform.machine()} {platform.processor()} {torch.get_num_threads()} threads"
    if layout.devices > 1:
        name += f" x {layout.devices}"
    return name if layout.shards is None and layout.context == 1 else f"{name} {layout}"


@dataclass(frozen=True, slots=True)
class Measuring:
    """What is known of a run before its first step, by which its end is measured."""

    cache: Path | None
    key: str
    operations_per_token: float
    """Floating-point operations of training, over the data, for each of its tokens."""
    memory: MemoryPlan
    weights: int
    activations: float
    """Bytes of the activations at the predicted peak."""
    loading: float

    @property
    def learned(self) -> Learned | None:
        """What runs like this one have measured before."""
        return look_up(self.cache, self.key)

    def remember(self, outcome: Outcome) -> None:
        """Keep what a run that finished or was stopped has measured, if it took some steps."""
        if outcome.steps < FEWEST_STEPS or outcome.status == "failed":
            return
        counted = sum(self.memory.held.values()) + self.activations
        if self.memory.device == "cpu":
            counted += self.memory.gathered
        beyond = (outcome.peak_memory_mb * 2**20 - counted) / max(1.0, self.activations)
        with suppress(ValidationError):
            measured = Measurement(
                key=self.key,
                rate=self.operations_per_token * outcome.tokens_per_second,
                process=max(0, self.memory.held.get("in use", 0) - self.weights),
                allocator=min(10.0, max(-1.0, beyond)),
                loading=self.loading,
            )
            remember(self.cache, measured)
