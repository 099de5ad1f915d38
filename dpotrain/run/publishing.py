"""Records on their way out: to ``metrics.jsonl``, the person who watches, and the loggers."""

from __future__ import annotations

from dataclasses import dataclass

from dpotrain.core.records import Record
from dpotrain.core.reporter import Reporter
from dpotrain.plugin.runtime.loggers import LoggerSet
from dpotrain.run.folder.metrics_file import MetricsFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Publisher:
    """Sends a record everywhere, from the main process alone."""

    metrics: MetricsFile
    reporter: Reporter
    loggers: LoggerSet
    is_main: bool

    def publish(self, record: Record) -> None:
        """Write the record to the metrics file, then show it and hand it to the loggers."""
        if self.is_main:
            self.metrics.write(record)
        self.reporter.logged(record)
        self.loggers.log(record)
