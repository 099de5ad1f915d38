"""A made-up run whose every text of the data is a secret, for the tests of the loggers."""

from __future__ import annotations

from pathlib import Path

import torch

from dpotrain.run.records import Outcome, Record, Run

#: Stands for anything of the data: no logger may let it out.
SECRET = "SECRET-PROMPT-8d1f"


def made_up_run(folder: Path, notes: list[str] | None = None, resumed_from: int = 0) -> Run:
    folder.mkdir(parents=True, exist_ok=True)
    said = [] if notes is None else notes
    return Run(
        folder=folder,
        config={"seed": 42, "model": {"use": "transformers", "name": "tiny"}, "optimizer": {"lr": 5e-6}},
        policy=torch.nn.Identity(),  # type: ignore[arg-type]
        tokenizer=None,  # type: ignore[arg-type]
        device=torch.device("cpu"),
        seed=42,
        total_steps=4,
        train_pairs=8,
        eval_pairs=2,
        resumed_from=resumed_from,
        note=said.append,
    )


def train(step: int, loss: float = 0.5) -> Record:
    return Record("train", step, {"loss": loss, "rewards/margins": 0.25, "learning_rate": 1e-6})


def evaluation(step: int, loss: float = 0.6) -> Record:
    return Record("eval", step, {"loss": loss, "rewards/accuracies": 0.75})


def ended(folder: Path, status: str = "finished") -> Outcome:
    return Outcome(
        status=status,  # type: ignore[arg-type]
        steps=4,
        folder=folder,
        final=None,
        first_evaluation={"loss": 0.69},
        last_evaluation={"loss": 0.6},
        best_evaluation={"loss": 0.58, "step": 3},
        seconds=12.0,
        pairs_per_second=3.5,
        tokens_per_second=700.0,
        peak_memory_mb=512.0,
        sections={
            "demo": {
                "preferred_after": 0.96,
                "sample": SECRET,
                "table": {"columns": ["prompt"], "rows": [[SECRET]]},
            }
        },
        error=SECRET if status == "failed" else "",
    )
