"""Stages one after the other, each in a process of its own under its own time limit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.gpu.checkout import make_importable
from tests.gpu.child import Child, preload
from tests.gpu.report import Report, Result
from tests.gpu.stages import STAGES, Stage

#: Seconds that a stage has on a CPU.
DRY_LIMIT = 240
#: With fewer seconds left, a stage is not started.
SHORTEST = 1


def run(numbers: Sequence[int], out: Path, dry: bool, minutes: float) -> list[Result]:
    """Run stages, write each one's line to ``out/results.jsonl`` when it ends, and the table at the end."""
    deadline = time.monotonic() + 60 * minutes
    out = out.resolve()
    (out / "logs").mkdir(parents=True, exist_ok=True)
    lines = out / "results.jsonl"
    lines.write_text("", encoding="utf-8")
    results: list[Result] = []
    signal.signal(signal.SIGTERM, _stop)
    scratch = Path(tempfile.mkdtemp(prefix="dpotrain-gpu-"))
    try:
        _prepare_environment(scratch, dry)
        for number in numbers:
            stage = STAGES[number]
            limit = min(DRY_LIMIT if dry else stage.limit, deadline - time.monotonic())
            result = run_stage(stage, scratch, out, dry, limit)
            results.append(result)
            with lines.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(result)) + "\n")
                file.flush()
                os.fsync(file.fileno())
            print(
                f"{number:2} {stage.name}: {_verdict(result)}, {result.seconds:.1f} s {result.error}",
                flush=True,
            )
    finally:
        with (out / "table.txt").open("w", encoding="utf-8") as file:
            Console(file=file, width=150).print(table(results))
        Console(width=150).print(table(results))
        shutil.rmtree(scratch, ignore_errors=True)
    return results


def run_stage(stage: Stage, scratch: Path, out: Path, dry: bool, limit: float) -> Result:
    """Run one stage in a process of its own, and return its result even if it hangs or crashes."""
    if limit < SHORTEST:
        return Result(stage.number, stage.name, False, 0.0, error="not run: no time left")
    folder = scratch / str(stage.number)
    folder.mkdir()
    report = Report(folder / "report.jsonl", folder, out, dry)
    began = time.monotonic()
    child = Child(
        carry_out, stage.number, report, log=out / "logs" / f"{stage.number:02}.txt", leads_group=True
    )
    try:
        code = child.wait(limit)
    finally:
        child.kill()
    ended = {None: f"stopped after {limit:.0f} s", 0: ""}.get(code, f"ended with code {code}")
    return Result.of(stage.number, stage.name, time.monotonic() - began, report.file, ended)


def carry_out(number: int, report: Report) -> None:
    """Run a stage in this process; what it raises becomes its error."""
    try:
        STAGES[number].run(report)
    except Exception as error:
        report.fail(f"{type(error).__name__}: {error}"[:2000])
        raise


def _prepare_environment(scratch: Path, dry: bool) -> None:
    """Set what all processes inherit: entry points, caches of their own, no network."""
    make_importable(scratch / "packages")
    os.environ.update(
        HF_HUB_OFFLINE="1",
        HF_HOME=str(scratch / "cache"),
        XDG_CACHE_HOME=str(scratch / "cache"),
        TOKENIZERS_PARALLELISM="false",
        # Asking whether there is a device then does not initialise CUDA in this process.
        PYTORCH_NVML_BASED_CUDA_CHECK="1",
    )
    if dry:
        # A compiler takes longer for one layer than all of this together.
        os.environ.update(CUDA_VISIBLE_DEVICES="", TORCH_COMPILE_DISABLE="1")
    preload(dry)


def table(results: Sequence[Result]) -> Table:
    """Return a table with a row for each stage."""
    shown = Table(box=box.SIMPLE_HEAD)
    shown.add_column("", justify="right")
    for name in ("stage", "", "s"):
        shown.add_column(name, no_wrap=True)
    shown.add_column("figures and errors", overflow="fold")
    for result in results:
        told = [f"{name} {_shown(value)}" for name, value in result.figures.items()]
        text = Text("; ".join(told))
        if result.error:
            text.append(("\n" if told else "") + result.error, "red")
        shown.add_row(str(result.stage), result.name, _verdict(result), f"{result.seconds:.1f}", text)
    return shown


def _verdict(result: Result) -> str:
    return "passed" if result.passed else "FAILED"


def _shown(value: Any) -> str:
    return f"{value:,g}" if isinstance(value, float) else str(value)


def _stop(*_: object) -> None:
    raise SystemExit(143)
