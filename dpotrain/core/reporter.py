"""The interface through which a run shows what it does: a live view, plain lines, or nothing."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from dpotrain.core.records import CheckpointRecord, Outcome, Record, StepRecord


class Advance(Protocol):
    """Advances a phase's progress bar."""

    def __call__(self, count: int = 1) -> None: ...  # noqa: D102


class Reporter(Protocol):
    """Everything that a run shows goes through one of these; :mod:`dpotrain.ui` has a live view and plain lines.

    Used as a context manager around the whole run, so that a live display is always removed.
    Only the main process's reporter shows anything.
    """

    def __enter__(self) -> Reporter: ...
    def __exit__(self, *exc: object) -> None: ...

    def started(self, title: str, info: dict[str, str]) -> None:
        """Show the run that starts: ``info`` is labelled lines (model, data, trained parameters, …)."""

    def phase(self, name: str, total: int | None) -> AbstractContextManager[Advance]:
        """Show a progress bar for work before or between steps ("tokenizing", "reference")."""

    def note(self, text: str) -> None:
        """Show a note."""

    def warn(self, text: str) -> None:
        """Show a warning, which the user should probably act on."""

    def step(self, record: StepRecord) -> None:
        """Show one step; called for every step, so it must be cheap."""

    def logged(self, record: Record) -> None:
        """Show a train or eval record that was written to the metrics file."""

    def checkpoint(self, record: CheckpointRecord) -> None:
        """Show that a checkpoint is complete."""

    def finished(self, outcome: Outcome) -> None:
        """Show the closing summary."""


class SilentReporter:
    """Shows nothing: for ranks other than the main process, and for tests."""

    def __enter__(self) -> SilentReporter:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def started(self, title: str, info: dict[str, str]) -> None:  # noqa: D102
        pass

    def phase(self, name: str, total: int | None) -> AbstractContextManager[Advance]:  # noqa: D102
        return nullcontext(lambda count=1: None)

    def note(self, text: str) -> None:  # noqa: D102
        pass

    def warn(self, text: str) -> None:  # noqa: D102
        pass

    def step(self, record: StepRecord) -> None:  # noqa: D102
        pass

    def logged(self, record: Record) -> None:  # noqa: D102
        pass

    def checkpoint(self, record: CheckpointRecord) -> None:  # noqa: D102
        pass

    def finished(self, outcome: Outcome) -> None:  # noqa: D102
        pass
