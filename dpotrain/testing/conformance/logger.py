"""The suite for loggers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from dpotrain.core.records import LoggedRun, Outcome, Record, TextRecord
from dpotrain.testing.conformance.component import ComponentConformance

#: Stands for anything of the data: no logger may let it out.
SECRET = "SECRET-PROMPT-8d1f"


class LoggerConformance(ComponentConformance):
    """A logger takes records somewhere, whatever happens to the run."""

    @pytest.mark.parametrize("status", ["finished", "stopped", "failed"])
    def test_it_hears_a_run_however_it_ends(self, part: Any, tmp_path: Path, status: str) -> None:
        """From ``start`` to ``finish``, with evaluations before, between and after."""
        _run(part, tmp_path / "run", evaluation(0), train(1), train(2), evaluation(2), status=status)

    def test_a_resumed_run_goes_on(self, part: Any, tmp_path: Path) -> None:
        """A run that failed is picked up from its checkpoint: steps that were logged before come again."""
        _run(part, tmp_path / "run", evaluation(0), train(1), train(2), train(3), status="failed")
        again = type(part)(part.options)
        _run(again, tmp_path / "run", train(3), train(4), evaluation(4), resumed_from=2)

    def test_two_runs_at_once_do_not_meet(self, part: Any, tmp_path: Path) -> None:
        """Nothing is kept in the class or the module."""
        other = type(part)(part.options)
        part.start(made_up_run(tmp_path / "one"))
        other.start(made_up_run(tmp_path / "two"))
        part.log(train(1))
        part.finish(ended(tmp_path / "one"))
        other.log(train(1))
        other.finish(ended(tmp_path / "two"))

    def test_numbers_that_are_not_finite_are_taken(self, part: Any, tmp_path: Path) -> None:
        """They are when one looks at the log."""
        odd = (train(step, loss) for step, loss in enumerate((math.nan, math.inf, -math.inf), start=1))
        _run(part, tmp_path / "run", *odd, status="failed")

    def test_texts_are_taken_where_they_are_offered(self, part: Any, tmp_path: Path) -> None:
        """They follow the records of their step, may be of any text, and come again where a run is resumed."""
        part.start(made_up_run(tmp_path / "run"))
        for step in (0, 2):
            part.log(evaluation(step))
            part.log_text(samples(step))
        part.finish(ended(tmp_path / "run", "failed"))
        again = type(part)(part.options)
        again.start(made_up_run(tmp_path / "run", resumed_from=1))
        again.log_text(samples(2))
        again.finish(ended(tmp_path / "run"))

    @pytest.mark.parametrize("status", ["finished", "failed"])
    def test_no_text_of_the_data_gets_out(self, part: Any, tmp_path: Path, status: str) -> None:
        """What plugins report and what errors say may quote it."""
        notes: list[str] = []
        _run(part, tmp_path / "run", train(1), status=status, notes=notes)
        written = b"".join(path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())
        assert SECRET.encode() not in written
        assert SECRET not in "".join(notes)


def _run(part: Any, folder: Path, *records: Record, status: str = "finished", **run: Any) -> None:
    part.start(made_up_run(folder, **run))
    for record in records:
        part.log(record)
    part.finish(ended(folder, status))


def made_up_run(folder: Path, notes: list[str] | None = None, resumed_from: int = 0) -> LoggedRun:
    """Return a run of four steps as :meth:`Logger.start` gets it; what it notes goes into ``notes``."""
    folder.mkdir(parents=True, exist_ok=True)
    said = [] if notes is None else notes
    return LoggedRun(
        folder=folder,
        config={"seed": 42, "model": {"use": "transformers", "name": "tiny"}, "optimizer": {"lr": 5e-6}},
        seed=42,
        total_steps=4,
        train_pairs=8,
        eval_pairs=2,
        resumed_from=resumed_from,
        note=said.append,
        plugins=[
            {"name": "losses", "distribution": "dpotrain", "version": "0.1.0", "selected": ["loss dpo"]}
        ],
    )


def train(step: int, loss: float = 0.5) -> Record:
    """Return a train record."""
    return Record("train", step, {"loss": loss, "rewards/margins": 0.25, "learning_rate": 1e-6})


def evaluation(step: int, loss: float = 0.6) -> Record:
    """Return an eval record."""
    return Record("eval", step, {"loss": loss, "rewards/accuracies": 0.75})


def samples(step: int) -> TextRecord:
    """Return what a policy answers to two prompts."""
    rows = [
        {"prompt": "What is *DPO*?", "answer": f"A loss,\n\nat step {step} <b>&"},
        {"prompt": "多様な\t文字\u2028", "answer": ""},
    ]
    return TextRecord("samples", step, rows)


def ended(folder: Path, status: str = "finished") -> Outcome:
    """Return how the run ended; whatever could be a text of the data is :data:`SECRET`."""
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
