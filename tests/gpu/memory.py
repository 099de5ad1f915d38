"""Stage 8: the predicted peak of device memory beside the measured one, and a device that runs out of memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from dpotrain.engine.scoring.scorer import PackedScorer
from tests.gpu.child import Child, command, finish
from tests.gpu.report import Report
from tests.gpu.runs import LORA, Watch, Work, peak_gib, run

#: How far off a prediction may be.
RATIO = (0.7, 1.3)
#: Largest difference of losses between micro-batches of other sizes, in bfloat16.
CLOSE = 5e-3


def stage(report: Report) -> None:
    large = Work("1b", pairs_per_step=16, steps=3)
    small = Work("small", pairs_per_step=16, steps=3)
    if report.dry:
        large = small = Work("tiny", 20, 10, pairs_per_step=4, steps=2)
    eager = {"training.activation_checkpointing": False}
    fixed = {"training.tokens_per_microbatch": large.pairs_per_step // 2 * large.pair}
    predictions = {
        "1b LoRA, fixed": (large, LORA | eager | fixed),
        "1b LoRA, checkpointed": (large, LORA | fixed | {"training.activation_checkpointing": True}),
        "1b LoRA, automatic": (large, LORA),
        "small, all weights": (small, {"model.dtype": "float32", **eager, **fixed}),
        "small LoRA, compiled": (small, LORA | eager | fixed | {"training.compile": True}),
    }
    # Before this process initialises CUDA.
    name, (work, overrides) = next(iter(predictions.items()))
    planned = plan(report, work.write(report.folder / "planned"), overrides)
    for number, (name, (work, overrides)) in enumerate(predictions.items()):
        try:
            measured = predict(report, name, work, overrides)
        except Exception as error:
            report.fail(f"{name}: {type(error).__name__}: {str(error)[:300]}")
            continue
        if number == 0 and planned is not None:
            report.figure(f"{name}, measured / dpotrain plan", measured / planned)
            _expect_near(report, f"{name}, dpotrain plan", measured / planned)
    run_out(report, large, LORA | eager)
    expandable = os.environ.get("PYTORCH_ALLOC_CONF") == "expandable_segments:True"
    report.figure("expandable segments", expandable)
    report.expect(expandable or report.dry, "the allocator's segments are not expandable")


def plan(report: Report, recipe: Path, overrides: Mapping[str, Any]) -> float | None:
    """Return the GiB that ``dpotrain plan`` says; None on a CPU, whose figure is of the whole process."""
    sets = [word for key, value in overrides.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    child = Child(command, "plan", str(recipe), *sets, "--json", log=report.folder / "plan.txt")
    finish({"dpotrain plan": child}, 60)
    output = child.output()
    needed = json.loads(output[output.index("{") : output.rindex("}") + 1])["needed"]
    return None if report.dry else needed / 2**30


def predict(report: Report, name: str, work: Work, overrides: Mapping[str, Any]) -> float:
    """Run to the end, and return the GiB that were measured."""
    outcome = run(work.write(report.folder / name.replace(" ", "-")), overrides, Watch())
    assert outcome is not None
    predicted = outcome.plan["peak_memory_mb_predicted"]
    measured = outcome.plan["peak_memory_mb_measured"]
    report.figure(f"{name}, measured GiB", measured / 1024)
    report.figure(f"{name}, measured / predicted", measured / predicted)
    if not report.dry:  # on a CPU the whole process is measured, with what earlier runs left
        _expect_near(report, name, measured / predicted)
    return measured / 1024


def _expect_near(report: Report, name: str, ratio: float) -> None:
    report.expect(RATIO[0] <= ratio <= RATIO[1], f"{name}: measured is {ratio:.2f} of predicted")


def run_out(report: Report, work: Work, overrides: Mapping[str, Any]) -> None:
    """Take the same steps with too little memory for a micro-batch: smaller ones give the same losses."""
    everything = {"training.tokens_per_microbatch": work.pairs_per_step * work.pair, **overrides}
    free, tight = Watch(), Watch()
    run(work.write(report.folder / "roomy"), everything, free)
    roomy = peak_gib()
    # Between the peaks of the whole micro-batch and of half of it: the first does not fit, the second does.
    half = everything | {"training.tokens_per_microbatch": work.pairs_per_step // 2 * work.pair}
    run(work.write(report.folder / "half"), half, Watch())
    limit = peak_gib() + 0.3 * (roomy - peak_gib())
    with _memory_limit(limit, work.pairs_per_step // 2 * work.pair, report.dry) as failures:
        outcome = run(work.write(report.folder / "tight"), everything, tight)
        report.figure("out of memory, times", failures())
        report.expect(failures() > 0, "memory did not run out")
    report.figure("out of memory, limit GiB", limit)
    report.expect(outcome is not None and outcome.status == "finished", "the run did not recover")
    report.expect(len(tight.notes) > len(free.notes), "running out of memory is not reported")
    apart = max(abs(one - two) for one, two in zip(free.losses, tight.losses, strict=True))
    report.figure("out of memory, losses apart", apart)
    report.expect(apart < CLOSE, f"losses after recovering differ by {apart:.2g}")


@contextmanager
def _memory_limit(gib: float, tokens: int, dry: bool) -> Iterator[Any]:
    """Limit the device's memory, or on a CPU the tokens of a micro-batch; yields a function that counts failures."""
    if not dry:
        before = torch.cuda.memory_stats().get("num_ooms", 0)
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, gib * 2**30 / total))
        try:
            yield lambda: torch.cuda.memory_stats().get("num_ooms", 0) - before
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return
    failed = []
    score = PackedScorer.log_probs

    def small(scorer: PackedScorer, batch: Any, *more: Any) -> torch.Tensor:
        if len(batch.input_ids) > tokens and torch.is_grad_enabled():
            failed.append(len(batch.input_ids))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")
        return score(scorer, batch, *more)

    with mock.patch.object(PackedScorer, "log_probs", small):
        yield lambda: len(failed)
