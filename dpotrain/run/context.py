"""What the parts of a run share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dpotrain.core.masking import mask_data
from dpotrain.core.records import Record, Run, SamplesRecord, TextRecord
from dpotrain.core.reporter import Reporter
from dpotrain.engine.training.trainer import Trainer
from dpotrain.plugin.runtime.events import RunEvents
from dpotrain.recipe.recipe import Recipe
from dpotrain.run.folder.evaluation_files import EvaluationFiles
from dpotrain.run.folder.metrics_file import MetricsFile
from dpotrain.run.folder.text_files import SamplesFile, TextsFile
from dpotrain.run.state import RunState

#: What a table of texts can be called: trackers make file names and tags of it.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """A run, what trains it, where it is, and who is informed of it."""

    recipe: Recipe
    run: Run
    trainer: Trainer
    state: RunState
    metrics: MetricsFile
    samples: SamplesFile
    texts: TextsFile
    evaluations: EvaluationFiles
    events: RunEvents
    reporter: Reporter

    def publish(self, record: Record) -> None:
        """Write the record to the metrics file (main process alone), then show it and hand it to the loggers.

        What plugins logged since the last one is part of it.
        """
        if self.run.logged:
            record = replace(record, metrics={**record.metrics, **self.run.logged})
            self.run.logged.clear()
        if self.trainer.parallel.is_main:
            self.metrics.write(record)
        self.reporter.logged(record)
        self.events.loggers.log(record)

    def publish_samples(self, record: SamplesRecord) -> None:
        """Write what the policy answers to its file (main process alone), then show it and hand it to the loggers."""
        if self.trainer.parallel.is_main:
            self.samples.write(record)
        self.reporter.samples(record)
        self.events.loggers.log_text(record.as_text())

    def log_text(self, name: str, rows: Sequence[Mapping[str, str | float]]) -> None:
        """Write a plugin's table of texts to its file (main process alone), and hand it to the loggers.

        Raises:
            ValueError: it is no table of texts, or its name cannot be one.
        """
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name == "samples":
            raise ValueError(
                f'run.log_text: the name must be letters, digits and . _ -, and not "samples"; it is {name!r}'
            )
        table = [dict(row) for row in rows if isinstance(row, Mapping)]
        cells = (cell for row in table for cell in (*row.keys(), *row.values()))
        same = len({tuple(row) for row in table}) == 1 and len(table) == len(rows)
        if not same or not all(isinstance(cell, str | int | float) for cell in cells):
            raise ValueError(
                f"run.log_text({name!r}, …) takes rows with the same columns, each a mapping of names to texts or "
                "numbers"
            )
        if not self.trainer.parallel.is_main:
            return
        record = TextRecord(name, self.state.step, mask_data(table))
        self.texts.write(record)
        self.state.progress.texts += 1
        self.events.loggers.log_text(record)
