"""Loggers: they send the run's records somewhere."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

from dpotrain.core.records import LoggedRun, Outcome, Record, TextRecord
from dpotrain.plugin.api.component import Component, hookspec


class Logger(Component):
    """Takes the run's records somewhere; selected by a ``[[loggers]]`` table. Runs on the main process only.

    Its methods, those for run events included, are called one after the other in a thread of its own, so it may be
    slow: no step waits for it. One that raises, or does not return for ``logging.patience`` seconds, is
    dropped with a message; the run goes on, its metrics file stays whole, and ``dpotrain sync`` replays it.

    It gets copies. It must not draw from torch's global random generator, which the run uses.
    """

    kind = "logger"

    @abstractmethod
    def start(self, run: LoggedRun) -> None:
        """Open the log. ``run.config`` is the resolved recipe without secrets.

        Never log a text of the data: what a recipe wants to be seen comes to :meth:`log_text`.

        ``dpotrain sync`` calls this for a finished run, possibly again in the same folder: then :meth:`log` and
        :meth:`log_text` are called with every record from the first, :meth:`finish` with how it ended, and no run
        event is called.
        """

    @abstractmethod
    def log(self, record: Record) -> None:
        """Take one record: ``record.kind`` is "train" or "eval", ``record.metrics`` a flat mapping."""

    def log_text(self, record: TextRecord) -> None:  # a logger of numbers need not take texts
        """Take a table of texts, after the records of its step: ``record.name``, ``record.columns``, ``record.rows``.

        The recipe asks for them: the answers of ``[samples]`` under the name "samples", and what callbacks log. Nothing
        happens here. A resumed run brings the steps after its checkpoint again.
        """

    @abstractmethod
    def finish(self, outcome: Outcome) -> None:
        """Close the log. ``outcome.status`` says whether the run ended well."""


@hookspec
def dpotrain_loggers() -> Iterable[type[Logger]]:  # type: ignore[empty-body]
    """Offer loggers, which take the run's records somewhere.

    Called: while the recipe is read, and by ``dpotrain plugins`` and ``dpotrain schema``.

    Rank: every process; the methods of a logger run on the main process only, in a thread of its own.

    Must not import: the client of the service at the top of its module.

    Result: classes. Every ``[[loggers]]`` table picks one by ``use``. A logger that raises
    or hangs is dropped with a message and the run goes on.

    Example:
        from pathlib import Path

        from pydantic import Field

        from dpotrain import hookimpl
        from dpotrain.plugin.api import Logger


        class CsvLogger(Logger):
            name = "csv"

            class Options(Logger.Options):
                file: Path = Field(Path("loss.csv"), description="The file, inside the run folder.")

            def start(self, run):
                self._file = (run.folder / self.options.file).open("a")

            def log(self, record):
                print(record.kind, record.step, record.metrics["loss"], sep=",", file=self._file)

            def finish(self, outcome):
                self._file.close()


        @hookimpl
        def dpotrain_loggers():
            return [CsvLogger]
    """
