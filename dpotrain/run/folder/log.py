"""``run.log``: what the run said, and what the libraries beneath it said, with times."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from dpotrain.core.controls import Controls
from dpotrain.core.masking import mask, mask_data
from dpotrain.core.record_line import record_line
from dpotrain.core.records import CheckpointRecord, Outcome, Record, SamplesRecord, StepRecord
from dpotrain.core.reporter import Advance, Reporter

logger = logging.getLogger("dpotrain")


@contextmanager
def logging_to(path: Path, warn: Callable[[str], None]) -> Iterator[None]:
    """Send Python's logging and warnings to ``path`` while the context is open.

    They and transformers' progress bars are kept off the terminal, where they would run through the live view. Where
    the file cannot be written, ``warn`` is called once, and the rest is lost.
    """
    from transformers.utils import logging as transformers_logging

    handler = _LogFile(path, warn)
    handler.setFormatter(_Masked("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    level = logger.level
    root.addHandler(handler)
    logger.setLevel(logging.INFO)
    logging.captureWarnings(True)
    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()
    transformers_logging.disable_progress_bar()
    torch_logger = logging.getLogger("torch")  # torch gives it a handler of its own
    torch_handlers, torch_logger.handlers = torch_logger.handlers, []
    torch_propagates, torch_logger.propagate = torch_logger.propagate, True
    try:
        yield
    finally:
        torch_logger.handlers, torch_logger.propagate = torch_handlers, torch_propagates
        transformers_logging.enable_progress_bar()
        transformers_logging.disable_propagation()
        transformers_logging.enable_default_handler()
        logging.captureWarnings(False)
        logger.setLevel(level)
        root.removeHandler(handler)
        handler.close()


class _Masked(logging.Formatter):
    """Takes secrets out of lines, tracebacks included: libraries log addresses, and what failed with them."""

    def format(self, record: logging.LogRecord) -> str:
        return mask(super().format(record))


class _LogFile(logging.FileHandler):
    """A log that is given up when it cannot be written: a run does not end because of what it says."""

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        super().__init__(path, encoding="utf-8", delay=True)
        self._path, self._warn = path, warn
        self._given_up = False

    def emit(self, record: logging.LogRecord) -> None:
        if self._given_up:
            return
        try:
            super().emit(record)
        except OSError:  # it cannot even be opened
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        self._given_up = True
        self._warn(f"cannot write {self._path}: {error.strerror or error}; the run goes on without a log")

    def close(self) -> None:
        with suppress(OSError):  # what could not be written is tried again
            super().close()


class LoggedReporter(Reporter):
    """Passes everything on to the reporter a person sees, and the words among it to the log; secrets to neither."""

    def __init__(self, shown: Reporter) -> None:
        self.shown = shown

    def started(self, title: str, info: dict[str, str], total_steps: int = 0) -> None:  # noqa: D102
        info = {name: mask(value) for name, value in info.items()}
        logger.info("%s: %s", title, "; ".join(f"{name} {value}" for name, value in info.items()))
        self.shown.started(title, info, total_steps)

    def phase(self, name: str, total: int | None) -> AbstractContextManager[Advance]:  # noqa: D102
        logger.info("%s%s", name, "" if total is None else f" ({total})")
        return self.shown.phase(name, total)

    def note(self, text: str) -> None:  # noqa: D102
        logger.info("%s", text)
        self.shown.note(mask(text))

    def warn(self, text: str) -> None:  # noqa: D102
        logger.warning("%s", text)
        self.shown.warn(mask(text))

    def controls(self, controls: Controls) -> None:  # noqa: D102
        self.shown.controls(controls)

    def resumed(self, records: Sequence[Record]) -> None:  # noqa: D102
        self.shown.resumed(records)

    def microbatch(self, step: int, done: int, total: int) -> None:  # noqa: D102
        self.shown.microbatch(step, done, total)

    def step(self, record: StepRecord) -> None:  # noqa: D102
        self.shown.step(record)

    def logged(self, record: Record) -> None:  # noqa: D102
        logger.info("%s", record_line(record))
        self.shown.logged(record)

    def samples(self, record: SamplesRecord) -> None:  # noqa: D102
        logger.info("step %d: %d samples", record.step, len(record.samples))
        self.shown.samples(record)

    def checkpoint(self, record: CheckpointRecord) -> None:  # noqa: D102
        logger.info("checkpoint of step %d is complete", record.step)
        self.shown.checkpoint(record)

    def finished(self, outcome: Outcome) -> None:  # noqa: D102
        logger.info("%s after %d steps %s", outcome.status, outcome.steps, outcome.error)
        self.shown.finished(replace(outcome, sections=mask_data(outcome.sections)))
