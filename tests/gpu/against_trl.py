"""Stage 11: LoRA on the same work as TRL's, on the same device, as ``tests.benchmarks.compare`` measures it."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from tests.benchmarks.compare import DPOTRAIN, compare
from tests.benchmarks.sides import DEMO, Side, prepare, run_dpotrain
from tests.benchmarks.workload import Workload
from tests.gpu.models import config_of
from tests.gpu.report import Report

#: TRL as it is, and at its fastest; Liger's kernels need a GPU.
SIDES = (Side("trl", sys.executable, ("liger",)), Side("trl", sys.executable))
#: Tokens of prompt, chosen and rejected, what the chat template adds included, and how far lengths spread.
SYNTHETIC = (512.0, 512.0, 512.0, 0.3)


def stage(report: Report) -> None:
    workload = Workload(
        str(_model(report)), str(report.folder / "pairs.jsonl"), pairs=32, pairs_per_step=4, max_length=4096
    )
    synthetic, sides = SYNTHETIC, SIDES
    if report.dry:
        workload = replace(workload, pairs=4, pairs_per_step=2, precision="fp32")
        synthetic, sides = (20.0, 10.0, 10.0, 0.0), SIDES[1:]
    run = {DPOTRAIN: partial(run_dpotrain, workload)}
    for side in sides:
        if reason := side.why_not():
            report.figure(f"{side.title}, not measured", reason)
        else:
            run[side.title] = partial(side.run, workload)
    found = compare(workload, prepare(workload, synthetic, exact=True), run, rounds=1)
    ours: dict[str, float] = {}
    for name, side in found.items():
        if "error" in side:
            report.fail(f"{name}: {side['error'][-400:]}")
            continue
        figures = {figure: each["median"] for figure, each in side["summary"].items()}
        memory = "peak_cuda_allocated_mb" if torch.cuda.is_available() else "peak_resident_mb"
        report.figure(f"{name}, pairs/s", figures["pairs_per_second"])
        report.figure(f"{name}, {memory}", figures[memory])
        ours = ours or figures
        if name != DPOTRAIN:
            report.figure(f"over {name}", ours["pairs_per_second"] / figures["pairs_per_second"])
            report.figure(f"memory over {name}", ours[memory] / figures[memory])
            report.expect(side["agreement"]["same_work"], f"{name} did other work: {side['agreement']}")


def _model(report: Report) -> Path:
    """Write what every trainer loads: 1B random weights, and the demo's tokenizer, which has a chat template."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if report.dry:
        return DEMO
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    config = config_of("1b")
    config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    torch.manual_seed(0)
    with torch.device(report.device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    folder = report.folder / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
