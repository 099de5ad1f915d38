"""dpotrain's side: a workload as a recipe, run in a process of its own.

python -m tests.benchmarks.dpotrain_side WORKLOAD.json RESULT.json [--set KEY=VALUE]… [--phases] [--prompts-twice]
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import tomli_w
import torch

from dpotrain import load_recipe, train
from dpotrain.core.records import StepRecord
from dpotrain.core.reporter import Advance, SilentReporter
from tests.benchmarks.clock import StepClock, peak_memory_mb, synchronize, versions
from tests.benchmarks.phases import watching
from tests.benchmarks.unshared import prompts_twice
from tests.benchmarks.workload import Workload

#: What the run calls its pass over the pairs before training (see ``dpotrain.run.building.references``).
REFERENCE = "reference"
LOG_PROBS = ("logps/chosen", "logps/rejected")


class Watch(SilentReporter):
    """Hears what the run would show a person."""

    def __init__(self, steps_per_epoch: int) -> None:
        self.clock = StepClock(steps_per_epoch)
        self.phases: dict[str, float] = {}
        self.records: list[StepRecord] = []
        self.warnings: list[str] = []

    @contextmanager
    def phase(self, name: str, total: int | None) -> Iterator[Advance]:
        synchronize()
        began = time.perf_counter()
        yield lambda count=1: None
        synchronize()
        self.phases[name] = self.phases.get(name, 0.0) + time.perf_counter() - began

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def step(self, record: StepRecord) -> None:
        self.clock.step_ended()
        self.records.append(record)


def run(
    workload: Workload, scratch: Path, overrides: Sequence[str], *, phases: bool, twice: bool
) -> dict[str, Any]:
    recipe = scratch / "recipe.toml"
    recipe.write_text(tomli_w.dumps(workload.recipe(scratch / "run")), encoding="utf-8")
    watch = Watch(workload.steps_per_epoch)
    with prompts_twice() if twice else nullcontext(), watching() if phases else nullcontext() as parts:
        train(load_recipe(recipe, overrides), reporter=watch)
    result = {
        "losses": [record.metrics["loss"] for record in watch.records],
        "log_probs": [[record.metrics[name] for name in LOG_PROBS] for record in watch.records],
        "step_ends": watch.clock.ends,
        "step_seconds": [record.seconds for record in watch.records],
        "reference_seconds": watch.phases.get(REFERENCE, 0.0),
        "live_reference": REFERENCE not in watch.phases,
        "before_training_seconds": watch.phases,
        "warnings": watch.warnings,
        "peak_memory_mb": peak_memory_mb(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
    if parts is not None:
        result["phases"] = parts.mean()
        result["calls"] = parts.calls_per_step()
        result["groups"] = parts.groups
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description="Run dpotrain's side of a comparison.")
    parser.add_argument("workload", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--phases", action="store_true", help="time the parts of each step, which slows them")
    parser.add_argument("--prompts-twice", action="store_true", help="train without prefix sharing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        result = run(
            Workload.read(options.workload),
            Path(scratch),
            options.overrides,
            phases=options.phases,
            twice=options.prompts_twice,
        )
    options.result.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
