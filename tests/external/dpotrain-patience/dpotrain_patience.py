"""Early stopping: a callback that ends a run whose evaluations no longer improve."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from dpotrain import hookimpl
from dpotrain.plugin.api import Callback, Record, Run, RunError, did_you_mean

dpotrain_interface = 2


class Patience(Callback):
    """Ends the run, as finished, after so many evaluations in a row that do not improve on the best."""

    name = "patience"
    needs_evaluations = True

    class Options(Callback.Options):
        metric: str = Field("loss", min_length=1, description="Metric of the evaluations.")
        lowest: bool = Field(True, description="Whether lower values are better.")
        evaluations: int = Field(2, ge=1, description="How many in a row may fail to improve.")
        improvement: float = Field(0.0, ge=0, description="By how much a value must beat the best one.")

    options: Options

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.best, self.failed = math.nan, 0

    @hookimpl
    def dpotrain_evaluated(self, run: Run, evaluation: Record) -> None:
        """Compare an evaluation with the best so far; nan is no improvement on a number."""
        name = self.options.metric
        if name not in evaluation.metrics:
            raise RunError(f'patience: no metric "{name}"{did_you_mean(name, list(evaluation.metrics))}')
        value = evaluation.metrics[name] * (1 if self.options.lowest else -1)
        improved = math.isnan(self.best) or value < self.best - self.options.improvement
        self.best, self.failed = (value, 0) if improved else (self.best, self.failed + 1)
        run.log(**{"patience/left": self.options.evaluations - self.failed})
        if self.failed >= self.options.evaluations:
            run.stop(f"{name} has not improved in {self.failed} evaluations")

    def state_dict(self) -> Mapping[str, Any]:
        """Return what a checkpoint keeps."""
        return {"best": self.best, "failed": self.failed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting from a checkpoint."""
        self.best, self.failed = state["best"], state["failed"]


@hookimpl
def dpotrain_callbacks() -> list[type[Callback]]:
    return [Patience]
