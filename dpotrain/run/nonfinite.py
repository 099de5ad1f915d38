"""Steps whose loss or gradient norm is not finite: their pairs are written out, the step is skipped or ends the run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dpotrain.core.reporter import Reporter
from dpotrain.data.batches.mixture import Indices
from dpotrain.data.tokens.tokenized import TokenizedPairs
from dpotrain.engine.training.unfinished import NotFinite
from dpotrain.run.state import RunState

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Steps in a row that may be skipped: beyond that, nothing is being learnt.
MOST_SKIPPED = 10


@dataclass(slots=True, kw_only=True)
class NonFiniteSteps:
    """What is done about such a step; called by the trainer, which skips the step where this returns."""

    file: Path
    """``nonfinite_pairs.jsonl``."""
    data: TokenizedPairs
    sources: tuple[str, ...]
    """Labels of the data's sources; one that is empty where there is one only."""
    tokenizer: PreTrainedTokenizerBase
    on_nonfinite: Literal["stop", "skip"]
    """``training.on_nonfinite``."""
    state: RunState
    reporter: Reporter
    is_main: bool
    last_skipped: int = 0
    skipped_in_a_row: int = 0
    """Steps up to that one that were skipped, one after the other."""

    def __call__(self, problem: NotFinite) -> None:
        """Write the step's pairs out, and return where the recipe says to skip the step.

        Raises:
            NotFinite: the run ends; the text says where the pairs are and what to do.
        """
        where = ""
        if self.is_main:
            where = write_pairs(
                self.file, problem.step, self.data, problem.pairs, self.tokenizer, self.sources
            )
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if problem.step == self.last_skipped + 1 else 1
        self.last_skipped = problem.step
        too_often = self.skipped_in_a_row >= MOST_SKIPPED
        if self.on_nonfinite == "skip" and not too_often:
            self.reporter.warn(f"{problem}\n{where}The step is skipped.")
            return
        often = f"{MOST_SKIPPED} steps in a row were like that.\n" if too_often else ""
        raise NotFinite(
            f"{problem}\n{where}{often}The state of step {self.state.step} is saved. Lower optimizer.lr, warm "
            'up for longer, or try training.precision = "fp32" in a new run;\n'
            "or --resume with --set training.on_nonfinite=skip, which skips such steps.",
            problem.step,
            problem.pairs,
        )


def write_pairs(
    file: Path,
    step: int,
    data: TokenizedPairs,
    pairs: Indices,
    tokenizer: PreTrainedTokenizerBase,
    sources: tuple[str, ...] = ("",),
) -> str:
    """Append one line a pair, as the model saw it, and return a line that says where they are, or why nowhere."""

    def line(index: int) -> str:
        pair = data[index]
        parts: dict[str, Any] = {
            name: tokenizer.decode(getattr(pair, name)) for name in ("prompt", "chosen", "rejected")
        }
        source = {"source": label} if (label := sources[pair.source]) else {}
        return json.dumps({"step": step, **source, "row": pair.row, **parts}, ensure_ascii=False) + "\n"

    try:
        with file.open("a", encoding="utf-8") as stream:
            stream.writelines(line(int(index)) for index in pairs)
    except OSError as error:
        return f"They cannot be written to {file}: {error.strerror or error}.\n"
    return f"They are in {file}.\n"
