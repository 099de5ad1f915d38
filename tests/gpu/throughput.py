"""Stages 5 to 7: tokens a second and model FLOP utilization (MFU), with LoRA, of all weights, and on 4-bit weights."""

from __future__ import annotations

import gc
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch._dynamo.utils import counters

from dpotrain.engine.training.first_loss import DEVIATIONS, ROUNDING
from dpotrain.plugin.api import LoadRequest
from tests.benchmarks.flops import ModelShape, attended
from tests.gpu.device import peak_flops
from tests.gpu.models import RandomModel
from tests.gpu.report import Report
from tests.gpu.runs import LORA, Watch, Work, peak_gib, run

#: Steps before the clock starts: the first allocates, and with torch.compile both compile.
WARM = 2
WANTED = 0.5
COMPILED = {"training.compile": True}
CHECKPOINTED = {"training.activation_checkpointing": True}
#: Reference log-probs computed before training instead of in every step.
STORED = {"reference.when": "precomputed"}

#: Model, name, overrides; the most important first, since the time limit may cut the list short.
CASES: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
    ("1b", "eager", {}),
    ("8b", "eager", {}),
    ("1b", "compiled", COMPILED),
    ("8b", "compiled", COMPILED),
    ("8b", "checkpointed", CHECKPOINTED),
    ("1b", "stored reference", STORED),
    ("8b", "stored reference", STORED),
    ("1b", "checkpointed", CHECKPOINTED),
    ("1b", "compiled and checkpointed", COMPILED | CHECKPOINTED),
    ("8b", "compiled and checkpointed", COMPILED | CHECKPOINTED),
)
#: Pairs in a step, of 2,048 tokens each.
PAIRS = {"1b": 8, "8b": 4}
PROFILED = 0
"""The case that is profiled as well."""


def lora(report: Report) -> None:
    best = dict.fromkeys(PAIRS, 0.0)
    for number, (shape, name, overrides) in enumerate(CASES):
        if report.dry and shape != "1b":
            continue  # the tiny model takes the place of both
        fixed = {"training.activation_checkpointing": False, **overrides}
        mfu = case(report, f"{shape} {name}", shape, LORA | fixed, profiled=number == PROFILED)
        best[shape] = max(best[shape], mfu or 0.0)
    if not report.dry and peak_flops():
        for shape, mfu in best.items():
            report.expect(mfu >= WANTED, f"{shape}: the best MFU is {mfu:.1%}")


def full(report: Report) -> None:
    optimizers: tuple[tuple[str, Mapping[str, Any]], ...] = (
        ("adamw", {}),
        ("adamw, bfloat16 moments", {"optimizer.state_dtype": "bfloat16"}),
        ("adamw-8bit", {"optimizer.use": "adamw-8bit"}),
    )
    for name, overrides in optimizers:
        fixed = {"model.dtype": "float32", "optimizer.use": "adamw", "optimizer.lr": 1e-6}
        case(report, f"1b {name}", "1b", fixed | overrides)


def qlora(report: Report) -> None:
    case(report, "8b 4-bit", "8b", LORA | {"quantizer.use": "bnb-4bit"})
    case(report, "8b 4-bit compiled", "8b", LORA | COMPILED | {"quantizer.use": "bnb-4bit"})


def case(
    report: Report, name: str, shape: str, overrides: Mapping[str, Any], *, profiled: bool = False
) -> float | None:
    """Measure one case and return its MFU; a failure is an error of the stage, which continues."""
    try:
        return _case(report, name, shape, overrides, profiled)
    except Exception as error:
        report.fail(f"{name}: {type(error).__name__}: {str(error)[:400]}")
        error.__traceback__ = None  # whose frames hold the model
    gc.collect()
    torch.cuda.empty_cache()
    return None


def _case(
    report: Report, name: str, shape: str, overrides: Mapping[str, Any], profiled: bool
) -> float | None:
    timed = WARM + (1 if report.dry else 3)
    work = Work("tiny", prompt=20, answer=10, pairs_per_step=2, steps=timed + 2)
    if not report.dry:
        work = Work(shape, pairs_per_step=PAIRS[shape], steps=timed + 2)
    tokens = work.pairs_per_step * work.pair
    watch = Watch(enough=timed + 2 * profiled)
    profiler = _Profiler(report.out / "profile.txt", timed) if profiled else None
    watch.after = profiler or watch.after
    recipe = work.write(report.folder / name.replace(" ", "-"))
    counters.clear()
    run(recipe, {"training.tokens_per_microbatch": tokens, **overrides}, watch)
    if "training.compile" in overrides:
        report.figure(f"{name}, graphs", counters["stats"]["unique_graphs"])
        breaks = " / ".join(counters["graph_break"])
        # bitsandbytes may break its own layers' graphs.
        report.expect(not breaks or "quantizer.use" in overrides, f"{name}: broken graphs: {breaks[:300]}")
    if profiler is not None:
        report.figure("profile", profiler.file.name)
        del watch.ends[timed:]
    seconds = watch.seconds_per_step(WARM)
    report.figure(f"{name}, tokens/s", tokens / seconds)
    report.figure(f"{name}, peak GiB", peak_gib())
    first, last = watch.losses[0], watch.losses[-1]
    live = "adapter.use" in overrides and overrides.get("reference.when") != "precomputed"
    report.expect(
        abs(first - math.log(2)) < first_loss_tolerance(work, live=live),
        f"{name}: the first loss is {first:.4f}, not ln 2",
    )
    report.expect(math.isfinite(last), f"{name}: the loss becomes {last}")
    report.expect(not watch.warnings, f"{name}: {' / '.join(watch.warnings)[:300]}")
    flops = flops_of_step(work, 0 if "adapter.use" not in overrides else LORA["adapter.rank"], live)
    if (peak := peak_flops()) is None:
        return None
    mfu = flops / seconds / peak
    report.figure(f"{name}, MFU", mfu)
    return mfu


def first_loss_tolerance(work: Work, *, live: bool) -> float:
    """Return how far rounding takes the first loss, of DPO at a beta of 0.1, from ln 2.

    See :mod:`dpotrain.engine.training.first_loss`.
    """
    deviation = 0.1 / 2 * ROUNDING["bf16"] * math.sqrt(2 * work.answer / work.pairs_per_step)
    return 0.02 if live else max(0.02, DEVIATIONS * deviation)


def flops_of_step(work: Work, rank: int, live: bool) -> float:
    """Return the model FLOPs of a step (see :mod:`tests.benchmarks.flops`); ``live`` adds the reference's forward."""
    blueprint = RandomModel(RandomModel.Options(shape=work.shape)).blueprint(LoadRequest(device="meta"))
    shape = ModelShape.of(blueprint, rank)
    # The last token of a completion is predicted, and predicts nothing.
    counts = (work.pair, attended(work.prompt, work.answer, work.answer), 2 * work.answer)
    flops = shape.forward(*counts) + shape.backward(*counts)
    if live:
        flops += shape.forward(*counts, adapter=False)
    return float(work.pairs_per_step * flops)


class _Profiler:
    """Profiles the step after step ``after`` and writes down which operations took the device's time."""

    def __init__(self, file: Path, after: int) -> None:
        self.file, self.after = file, after
        activities = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self.profile = torch.profiler.profile(activities=activities)

    def __call__(self, step: int) -> None:
        if step == self.after:
            self.profile.start()
        elif step == self.after + 1:
            self.profile.stop()
            by = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
            told = self.profile.key_averages().table(sort_by=by, row_limit=40, max_name_column_width=90)
            self.file.write_text(told, encoding="utf-8")
