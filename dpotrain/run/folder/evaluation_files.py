"""``evaluations/``: the texts of the evaluated pairs, and the rewards of each in every evaluation."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dpotrain.core.atomic import write_text
from dpotrain.core.write_errors import writing
from dpotrain.data.pair_texts import PairText

#: Characters that are kept of a prompt or an answer.
MOST_CHARACTERS = 300
_NAME = re.compile(r"step-(\d{8})\.jsonl")


class EvaluationFiles:
    """Writes ``pairs.jsonl``, and a file for each evaluation with a line a pair, in the same order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pairs = folder / "pairs.jsonl"
        self._places: Sequence[Mapping[str, Any]] = ()

    def begin(self, pairs: Sequence[PairText]) -> Path | None:
        """Write the texts of the evaluated pairs.

        Where the folder holds evaluations of other pairs, because a resumed run changes ``evaluation.pairs``, it is
        renamed; its new name is returned.
        """
        # A row alone does not say of which source of a mixture it is.
        self._places = [
            {"source": pair.source, "row": pair.row} if pair.source else {"row": pair.row} for pair in pairs
        ]
        text = _lines(
            {
                **place,
                "prompt": _cut(pair.prompt),
                "chosen": _cut(pair.chosen),
                "rejected": _cut(pair.rejected),
            }
            for place, pair in zip(self._places, pairs, strict=True)
        )
        with writing(self.folder):
            moved = self._rename_others(text)
            self.folder.mkdir(exist_ok=True)
            write_text(self.pairs, text)
        return moved

    def write(self, step: int, rewards: npt.NDArray[np.float64]) -> None:
        """Write an evaluation: ``rewards`` are (pairs, 2), of chosen and rejected answers."""
        margins = rewards[:, 0] - rewards[:, 1]
        text = _lines(
            {
                **place,
                "margin": _number(margin),
                "chosen": _number(chosen),
                "rejected": _number(rejected),
            }
            for place, margin, (chosen, rejected) in zip(
                self._places, margins.tolist(), rewards.tolist(), strict=True
            )
        )
        path = self.folder / f"step-{step:08d}.jsonl"
        with writing(path):
            write_text(path, text)

    def rewind(self, steps: Collection[int]) -> None:
        """Delete the evaluations of other steps than these, before a resumed run repeats them."""
        for path in self._evaluations():
            match = _NAME.fullmatch(path.name)
            if match and int(match[1]) not in steps:
                with writing(path):
                    path.unlink()

    def _evaluations(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("step-*.jsonl") if _NAME.fullmatch(path.name))

    def _rename_others(self, text: str) -> Path | None:
        there = self._evaluations()
        if not there or (self.pairs.exists() and self.pairs.read_text(encoding="utf-8") == text):
            return None
        moved = self.folder.with_name(f"{self.folder.name}-until-{there[-1].stem}")
        self.folder.replace(moved)
        return moved


def _lines(values: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n" for value in values)


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 1]}…"


def _number(value: float) -> float | None:
    """Return six digits of a number: a float32 has seven. JSON has no number that is not finite."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
