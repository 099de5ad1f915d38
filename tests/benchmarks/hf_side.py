"""What the sides that are built on transformers' Trainer have in common: the callback that observes it, and the result.

It runs in other trainers' interpreters, so it imports nothing of dpotrain.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from tests.benchmarks.clock import StepClock, peak_memory_mb, versions
from tests.benchmarks.workload import Workload

#: What the trainers log of every step as means over its pairs: log-prob sums of chosen and rejected.
LOG_PROBS = ("logps/chosen", "logps/rejected")


class Steps(TrainerCallback):
    """Feeds the clock, and keeps each step's own duration, which leaves out what lies between steps, and its losses."""

    def __init__(self, steps_per_epoch: int) -> None:
        self.clock = StepClock(steps_per_epoch)
        self.began = 0.0
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self.log_probs: list[list[float]] = []

    def on_step_begin(self, *_, **__) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, *_, **__) -> None:
        self.clock.step_ended()
        self.seconds.append(self.clock.ends[-1] - self.began)

    def on_log(self, args, state, control, logs=None, **_) -> None:
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))
            self.log_probs.append([float(logs[name]) for name in LOG_PROBS])

    def result(self, reference_seconds: float = 0.0, live_reference: bool = True) -> dict[str, Any]:
        """Return what :mod:`.speeds` reads."""
        return {
            "losses": self.losses,
            "log_probs": self.log_probs,
            "step_ends": self.clock.ends,
            "step_seconds": self.seconds,
            "reference_seconds": reference_seconds,
            "live_reference": live_reference,
            "peak_memory_mb": peak_memory_mb(),
            "threads": torch.get_num_threads(),
            "versions": versions(),
        }


def shared_settings(workload: Workload, scratch: Path, checkpointing: bool) -> dict[str, Any]:
    """Return the TrainingArguments that make the work the same on every side."""
    return {
        "output_dir": str(scratch / "out"),
        "per_device_train_batch_size": workload.pairs_per_step,
        "gradient_accumulation_steps": 1,
        "num_train_epochs": workload.epochs,
        "learning_rate": workload.lr,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "bf16": workload.precision == "bf16",
        "gradient_checkpointing": checkpointing,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": workload.seed,
        "use_cpu": not torch.cuda.is_available(),
    }


def rows(workload: Workload) -> list[dict[str, Any]]:
    """Return the workload's pairs, in file order."""
    with Path(workload.data).open(encoding="utf-8") as lines:
        every = [json.loads(line) for line in lines if line.strip()]
    return every[: workload.pairs]


def command_line(train: Callable[..., dict[str, Any]], *options: str) -> None:
    """Call ``train(workload, scratch, option=bool, …)`` as the command line says, and write its result."""
    parser = argparse.ArgumentParser(description="Run one side of a comparison.")
    parser.add_argument("workload", type=Path)
    parser.add_argument("result", type=Path)
    for option in options:
        parser.add_argument(f"--{option}", action="store_true")
    given = parser.parse_args()
    flags = {option: getattr(given, option) for option in options}
    with tempfile.TemporaryDirectory() as scratch:
        result = train(Workload.read(given.workload), Path(scratch), **flags)
    given.result.write_text(json.dumps(result), encoding="utf-8")
