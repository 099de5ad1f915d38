"""A logger that counts records and keeps the lowest loss, over all attempts of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from dpotrain.plugin.components import Logger
from pydantic import Field

from dpotrain import hookimpl

if TYPE_CHECKING:
    from dpotrain.run.records import Outcome, Record, Run

dpotrain_interface = 1


class Tally(Logger):
    """Writes ``tally.json`` into the run folder: the number of records by kind, and the lowest loss with its step."""

    name = "tally"

    class Options(Logger.Options):
        """The keys of a ``[[loggers]]`` table with ``use = "tally"``."""

        best_of: Literal["train", "eval"] = Field(
            "eval", description="Of which records the lowest loss is kept."
        )

    options: Options

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.records = {"train": 0, "eval": 0}
        self.best: dict[str, Any] = {}

    def start(self, run: Run) -> None:
        """Remember where to write. What was counted before a stop is here already, by ``load_state_dict``."""
        self._path = run.folder / "tally.json"

    def log(self, record: Record) -> None:
        """Count a record. A loss that is not finite is never the best."""
        self.records[record.kind] += 1
        loss = record.metrics["loss"]
        if (
            record.kind == self.options.best_of
            and math.isfinite(loss)
            and loss < self.best.get("loss", math.inf)
        ):
            self.best = {"step": record.step, "loss": loss}

    def finish(self, outcome: Outcome) -> None:
        """Write the tally; a resumed run writes it again."""
        self._path.write_text(json.dumps({"records": self.records, "best": self.best}), encoding="utf-8")

    def state_dict(self) -> Mapping[str, Any]:
        """Return what a checkpoint keeps."""
        return {"records": dict(self.records), "best": dict(self.best)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting from a checkpoint: what came after it is counted when it comes again."""
        self.records, self.best = dict(state["records"]), dict(state["best"])


@hookimpl
def dpotrain_loggers() -> list[type[Logger]]:
    """Offer the logger."""
    return [Tally]
