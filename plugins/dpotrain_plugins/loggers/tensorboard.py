"""The ``tensorboard`` logger: records as event files in the run folder; needs the extra ``tensorboard``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pydantic import Field

from dpotrain import hookimpl
from dpotrain.plugin.api import LoggedRun, Logger, Outcome, Record, TextRecord, require
from dpotrain_plugins.loggers.tracking import named, plugin_text

dpotrain_interface = 2

#: What the names of event files begin with.
EVENTS = "events.out.tfevents"


class TensorBoardLogger(Logger):
    """Writes event files to the folder ``tensorboard`` of the run folder."""

    name = "tensorboard"

    class Options(Logger.Options):
        flush_seconds: float = Field(
            30.0, gt=0, description="Seconds after which new records are on disk for a reader to see."
        )

    options: Options

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._writer: Any = None

    def check(self) -> None:
        require(self, "tensorboard", extra="tensorboard")

    def start(self, run: LoggedRun) -> None:
        """Open an event file; what an earlier attempt wrote beyond the resumed step is dropped by readers."""
        from torch.utils.tensorboard import SummaryWriter

        folder = run.folder / "tensorboard"
        earlier = sorted(folder.glob(f"{EVENTS}.*"))
        _precede_now(earlier)
        # The evaluation at the resumed step came before its checkpoint and stays; without one, all goes.
        purge = (run.resumed_from + 1 if run.resumed_from else 0) if earlier else None
        self._writer = SummaryWriter(str(folder), purge_step=purge, flush_secs=self.options.flush_seconds)
        for plugin in run.plugins:
            self._writer.add_text(f"plugins/{plugin['name']}", plugin_text(plugin), run.resumed_from)

    def log(self, record: Record) -> None:
        for name, value in named(record).items():
            self._writer.add_scalar(name, value, record.step)

    def log_text(self, record: TextRecord) -> None:
        """Write each row under a tag of its own, so that one prompt's answers stand one below the other."""
        for number, row in enumerate(record.rows, start=1):
            parts = (f"**{column}**\n\n{_literal(str(text))}" for column, text in row.items())
            self._writer.add_text(f"{record.name}/{number}", "\n\n".join(parts), record.step)

    def finish(self, outcome: Outcome) -> None:
        self._writer.close()


def _precede_now(files: list[Path]) -> None:
    """Rename event files that readers, who go by the names, would read after one that is opened now.

    The names begin with the second in which a file was opened: the same one, or a later one by another machine's clock.
    """
    before = f"{EVENTS}.{int(time.time()) - 1:010d}"
    for number, file in enumerate(file for file in files if file.name >= before):
        file.rename(file.with_name(f"{before}.{number:04d}{file.name.removeprefix(EVENTS)}"))


def _literal(text: str) -> str:
    """Return Markdown that shows a text as it is."""
    return "\n".join(f"    {line}" for line in text.splitlines())


@hookimpl
def dpotrain_loggers() -> list[type[Logger]]:
    return [TensorBoardLogger]
