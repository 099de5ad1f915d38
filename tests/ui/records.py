"""Records of a made-up run, and a clock that a test moves."""

from dataclasses import dataclass
from pathlib import Path

from dpotrain.core.records import Outcome, Record, StepRecord


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
