"""The ``early-stopping`` callback: it ends a run whose held-out numbers no longer improve."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from dpotrain import hookimpl
from dpotrain.plugin.api import Callback, Record, Run, RunError

dpotrain_interface = 2


class EarlyStopping(Callback):
    """Ends the run, as finished, once a metric of the evaluations has not improved for some of them.

    The result is the policy as it is then; with ``evaluation.best = true`` it is that of the best evaluation.
    """

    name = "early-stopping"
    needs_evaluations = True

    class Options(Callback.Options):
        metric: str = Field("loss", min_length=1, description="The metric, as `metrics.jsonl` names it.")
        better: Literal["auto", "lower", "higher"] = Field(
            "auto", description='Which values are better; "auto" is "lower" for `loss`, "higher" for others.'
        )
        patience: int = Field(
            3, ge=1, description="Evaluations in a row without an improvement that end the run."
        )
        min_change: float = Field(
            0.0, ge=0, description="By how much a value must be better than the best one to count."
        )

    options: Options

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._best: float | None = None
        self._since = 0

    def state_dict(self) -> Mapping[str, Any]:
        return {"best": self._best, "since": self._since}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._best, self._since = state["best"], state["since"]

    @hookimpl
    def dpotrain_evaluated(self, run: Run, evaluation: Record) -> None:
        options = self.options
        if options.metric not in evaluation.metrics:
            raise RunError(
                f'early-stopping: an evaluation has no metric "{options.metric}"; there are:\n'
                + ", ".join(evaluation.metrics)
            )
        value = evaluation.metrics[options.metric]
        lower = options.metric == "loss" if options.better == "auto" else options.better == "lower"
        gain = 0.0 if self._best is None else (self._best - value if lower else value - self._best)
        first = self._best is None or (math.isnan(self._best) and not math.isnan(value))
        if first or gain > options.min_change:
            self._best, self._since = value, 0
            return
        self._since += 1
        if self._since >= options.patience:
            run.stop(f"{options.metric} has not improved on {self._best:.4f} for {self._since} evaluations")


@hookimpl
def dpotrain_callbacks() -> list[type[Callback]]:
    return [EarlyStopping]
