"""Stage 4: operations in a step's gradients that wait for the device, and copies from pageable memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

from dpotrain.engine.training.trainer import Trainer
from tests.benchmarks.clock import synchronize
from tests.gpu.report import Report
from tests.gpu.runs import LORA, Watch, Work, run

#: Steps before the one that is watched.
WARM = 2
CASES: Mapping[str, Mapping[str, Any]] = {
    "LoRA, live reference": LORA,
    "full, stored reference": {"model.dtype": "float32"},
    "LoRA, checkpointed": LORA | {"training.activation_checkpointing": True},
}


def stage(report: Report) -> None:
    for name, overrides in CASES.items():
        look(report, name, overrides)


def look(report: Report, name: str, overrides: Mapping[str, Any]) -> None:
    """Take a step that collects all waits, one under the profiler, and one that fails at the first wait."""
    places: set[str] = set()
    copies: list[str] = []
    ways = {
        WARM + 1: lambda: _naming_waits(places, report.dry),
        WARM + 2: lambda: _listing_copies(copies),
        # Last, since it ends the run; also covers the threads of the backward pass.
        WARM + 3: lambda: _sync_mode("error", report.dry),
    }
    work = Work("small", 200, 56, pairs_per_step=8, steps=max(ways))
    if report.dry:
        work = Work("tiny", 20, 10, pairs_per_step=4, steps=max(ways))
    # Two micro-batches a step: the second must not wait for the first.
    tokens = work.pairs_per_step // 2 * work.pair
    gradients, seen = Trainer._gradients, []

    def watched(trainer: Trainer, step: Any, *rest: Any) -> Any:
        seen.append(step.step)
        if step.step not in ways:
            return gradients(trainer, step, *rest)
        synchronize()
        with ways[step.step]():
            return gradients(trainer, step, *rest)

    recipe = work.write(report.folder / name.replace(" ", "-").replace(",", ""))
    try:
        with mock.patch.object(Trainer, "_gradients", watched):
            run(recipe, {"training.tokens_per_microbatch": tokens, **overrides}, Watch(enough=work.steps))
    except Exception as error:
        report.fail(f"{name}: {type(error).__name__}: {str(error)[:300]}")
    report.figure(f"{name}: waits", len(places))
    report.figure(f"{name}: pageable copies", len(copies))
    report.expect(set(ways) <= set(seen), f"{name}: only steps {seen} were watched")
    report.expect(not places, f"{name}: waits at {', '.join(sorted(places))}")
    report.expect(not copies, f"{name}: {', '.join(sorted(set(copies)))}")


@contextmanager
def _naming_waits(places: set[str], dry: bool) -> Iterator[None]:
    """Collect the lines of Python that wait for the device; for a backward pass, the line that calls it."""
    with warnings.catch_warnings(record=True) as caught, _sync_mode("warn", dry):
        warnings.simplefilter("always")
        yield
    for warning in caught:
        if "called a synchronizing" in str(warning.message):
            places.add(f"{warning.filename}:{warning.lineno}")


@contextmanager
def _sync_mode(mode: str, dry: bool) -> Iterator[None]:
    set_mode: Callable[[str], None] = (lambda mode: None) if dry else torch.cuda.set_sync_debug_mode
    set_mode(mode)
    try:
        yield
    finally:
        set_mode("default")


@contextmanager
def _listing_copies(copies: list[str]) -> Iterator[None]:
    """Collect copies from or to host memory that is not pinned, which wait for the device."""
    with torch.profiler.profile() as profile:
        yield
    copies += [event.name for event in profile.events() or [] if "pageable" in event.name.lower()]
