"""Stage 9: the quickstart in bfloat16, once whole, once killed and resumed; then its result is loaded."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import torch

from tests.gpu.checkout import ROOT
from tests.gpu.child import Child, command, finish
from tests.gpu.report import Report

RECIPE = ROOT / "recipes" / "quickstart.toml"
#: Largest difference between the losses of both runs; the order of additions in backward kernels varies.
CLOSE = 0.05
#: Seconds for one run.
LIMIT = 60
DRY = (
    *("data.pairs=80", "data.samples=0", "training.epochs=1"),
    *("checkpoints.every=2", "evaluation.every=4", "logging.every=1"),
)


def stage(report: Report) -> None:
    whole, broken = report.folder / "whole", report.folder / "broken"
    finish({"the whole run": _start(report, whole)}, LIMIT)
    child = _start(report, broken)
    began = time.monotonic()
    while child.running and not _checkpoints(broken) and time.monotonic() < began + LIMIT:
        time.sleep(0.01)
    report.expect(child.running, "the run ended before it could be killed")
    child.kill()
    steps = [int(path.name.rpartition("-")[2]) for path in _checkpoints(broken)]
    report.figure("killed after the checkpoint of step", max(steps, default=0))
    report.expect(bool(steps), "no checkpoint was there when the run was killed")
    began = time.monotonic()
    finish({"the resumed run": _start(report, broken, "--resume")}, LIMIT)
    report.figure("resuming, s", time.monotonic() - began)
    compare(report, whole, broken)
    load(report, broken / "final")


def _start(report: Report, run: Path, *more: str) -> Child:
    sets = [
        f"run.output_dir={json.dumps(str(run))}",
        'training.precision="bf16"',
        *(DRY if report.dry else ()),
    ]
    words = [word for override in sets for word in ("--set", override)]
    return Child(
        command,
        "run",
        str(RECIPE),
        *words,
        *more,
        log=report.out / "logs" / f"demo-{run.name}{''.join(more)}.txt",
    )


def _checkpoints(run: Path) -> list[Path]:
    """Return the checkpoints that are complete."""
    return [path.parent for path in run.glob("checkpoints/step-*/manifest.json")]


def compare(report: Report, whole: Path, broken: Path) -> None:
    one, two = _losses(whole), _losses(broken)
    report.expect(one.keys() == two.keys(), "the runs logged other steps")
    apart = max((abs(one[key] - two[key]) for key in one.keys() & two.keys()), default=math.nan)
    report.figure("records compared", len(one))
    report.figure("losses apart", apart)
    report.expect(apart < CLOSE, f"losses of the resumed run differ by {apart:.3g}")
    last = [loss for (kind, _), loss in two.items() if kind == "train"][-1]
    report.figure("last loss", last)
    report.expect(report.dry or last < 0.6, f"the last loss is {last:.3f}: the model did not learn")
    summary = json.loads((broken / "summary.json").read_text(encoding="utf-8"))
    for name in ("preferred_before", "preferred_after"):
        if (share := summary.get("sections", {}).get("demo", {}).get(name)) is not None:
            report.figure(name, share)


def _losses(run: Path) -> dict[tuple[str, int], float]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return {(record["kind"], record["step"]): record["loss"] for record in records if "loss" in record}


def load(report: Report, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder).to(report.device)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked = tokenizer("please", return_tensors="pt").to(report.device)
    with torch.no_grad():
        logits = model(**asked).logits
    report.expect(bool(logits.isfinite().all()), "the loaded result gives numbers that are not finite")
