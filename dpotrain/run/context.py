"""What the parts of a run share."""

from __future__ import annotations

from dataclasses import dataclass

from dpotrain.core.records import Record, Run, SamplesRecord
from dpotrain.core.reporter import Reporter
from dpotrain.engine.training.trainer import Trainer
from dpotrain.plugin.runtime.events import RunEvents
from dpotrain.recipe.recipe import Recipe
from dpotrain.run.folder.evaluation_files import EvaluationFiles
from dpotrain.run.folder.metrics_file import MetricsFile
from dpotrain.run.folder.samples_file import SamplesFile
from dpotrain.run.state import RunState


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """A run, what trains it, where it is, and who is informed of it."""

    recipe: Recipe
    run: Run
    trainer: Trainer
    state: RunState
    metrics: MetricsFile
    samples: SamplesFile
    evaluations: EvaluationFiles
    events: RunEvents
    reporter: Reporter

    def publish(self, record: Record) -> None:
        """Write the record to the metrics file (main process alone), then show it and hand it to the loggers."""
        if self.trainer.parallel.is_main:
            self.metrics.write(record)
        self.reporter.logged(record)
        self.events.loggers.log(record)

    def publish_samples(self, record: SamplesRecord) -> None:
        """Write what the policy answers to its file (main process alone), then show it and hand it to the loggers."""
        if self.trainer.parallel.is_main:
            self.samples.write(record)
        self.reporter.samples(record)
        self.events.loggers.log_samples(record)
