"""Records of a made-up run, a view of it, and a clock that a test moves."""

import math
from dataclasses import dataclass
from pathlib import Path

from dpotrain.core.controls import Controls
from dpotrain.core.records import CheckpointRecord, Outcome, Record, Sample, SamplesRecord, StepRecord
from dpotrain.core.reporter import Reporter


@dataclass
class Clock:
    """Stands still unless a test moves it."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def metrics(**changes: float) -> dict[str, float]:
    return {
        "loss": 0.5312, "grad_norm": 1.25, "learning_rate": 5e-7, "rewards/chosen": -0.25,
        "rewards/rejected": -0.75, "rewards/accuracies": 0.75, "rewards/margins": 0.5,
        "pairs_per_second": 12.3, "tokens_per_second": 2345.0, "peak_memory_mb": 3220.0,
    } | changes  # fmt: skip


def step(number: int, total: int = 470, **changes: float) -> StepRecord:
    """Return a step of 8 pairs and 1000 tokens that took 2 seconds."""
    return StepRecord(number, total, number / total, metrics(**changes), pairs=8, tokens=1000, seconds=2.0)


def evaluation(number: int, loss: float, accuracy: float, margin: float, chosen: float) -> Record:
    return Record(
        "eval",
        number,
        {
            "loss": loss,
            "rewards/accuracies": accuracy,
            "rewards/margins": margin,
            "rewards/chosen": chosen,
            "rewards/rejected": chosen - margin,
        },
    )


FIRST = evaluation(0, 0.6931, 0.5, 0.0, 0.0)
LAST = evaluation(200, 0.5431, 0.65, 0.55, -0.25)


def outcome(folder: Path, **changes: object) -> Outcome:
    values: dict[str, object] = {
        "status": "finished",
        "steps": 470,
        "folder": folder,
        "final": folder / "final",
        "train": metrics(),
        "first_evaluation": FIRST.metrics,
        "last_evaluation": LAST.metrics,
        "best_evaluation": {"step": 150, **LAST.metrics, "loss": 0.5},
        "seconds": 752.0,
        "pairs_per_second": 12.3,
        "tokens_per_second": 2345.6,
        "peak_memory_mb": 3220.0,
        "how_to_load": "model = load()\nmodel = adapt(model)",
    }
    return Outcome(**(values | changes))  # type: ignore[arg-type]


def show_start(reporter: Reporter, clock: Clock) -> None:
    """Show what a run shows before its first step."""
    reporter.controls(Controls())
    with reporter.phase("importing torch and transformers", None):
        clock.sleep(3)
    reporter.note("data format: conversational (recognised in 200 of 200 rows sampled)")
    with reporter.phase("tokenizing", 800) as advance:
        clock.sleep(2)
        advance(800)
    reporter.started(
        "recipe.toml",
        {
            "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
            "training": "lora: 4,884,480 of 139,400,000 parameters",
            "data": "12,000 pairs (conversational), 3,456,789 tokens; 100 held out",
            "folder": "runs/mine",
        },
        470,
    )
    with reporter.phase("evaluating", 100) as advance:
        clock.sleep(5)
        advance(100)
    reporter.logged(FIRST)
    reporter.samples(
        SamplesRecord(
            0,
            [
                Sample("What is 0+0?", "The answer is zero, since 0 and 0 are 0."),
                Sample("Write a haiku.", ""),
            ],
        )
    )


def show_steps(reporter: Reporter, clock: Clock, first: int = 1, last: int = 200) -> None:
    """Show steps of two seconds, an evaluation at step 200, and the beginning of the next step."""
    for number in range(first, last + 1):
        clock.sleep(2)
        down = math.exp(-number / 250)
        wave = math.sin(number / 3) / 30
        changes = {
            "rewards/margins": number / 250 + wave,
            "rewards/accuracies": min(1, 0.5 + number / 600 + wave),
            "rewards/chosen": -number / 400,
            "rewards/rejected": -number / 400 - number / 250,
            "learning_rate": 5e-6 * math.cos(number / 400),
            "peak_memory_mb": 2000.0 + number,
        }
        reporter.step(step(number, loss=0.69 * down + wave, grad_norm=2 * down + wave, **changes))
        if number == 200:
            with reporter.phase("evaluating", 100):
                clock.sleep(5)
            reporter.logged(Record("eval", 200, {**LAST.metrics, "pairs": 100.0}))
            reporter.samples(
                SamplesRecord(200, [Sample("What is 0+0?", "0."), Sample("Write a haiku.", "An old pond")])
            )
            reporter.checkpoint(CheckpointRecord(200, Path("runs/mine/checkpoints/step-00000200")))
    reporter.warn(
        "the loss of step 130 is 8 times that of the steps before it\nlook at nonfinite_pairs.jsonl"
    )
    reporter.microbatch(last + 1, 0, 8)
    clock.sleep(1)
    reporter.microbatch(last + 1, 3, 8)
