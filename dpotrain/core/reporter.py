"""What the run says while it works, to whoever shows it: a terminal, plain lines, or nobody."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from dpotrain.core.records import CheckpointRecord, Outcome, Record, StepRecord


class Advance(Protocol):
    """Moves a phase's progress bar on."""

    def __call__(self, count: int = 1) -> None: ...  # noqa: D102


class Reporter(Protocol):
    """Everything a person sees goes through one of these; :mod:`dpotrain.ui` has the two real ones.

    Used as a context manager around the whole run, so that a live display is taken down whatever happens.
    Only the main process's reporter shows anything.
    """

    def __enter__(self) -> Reporter: ...
    def __exit__(self, *exc: object) -> None: ...

    def started(self, title: str, facts: dict[str, str]) -> None:
        """Show what is about to run: ``facts`` are labelled lines (model, data, trained parameters, …)."""

    def phase(self, name: str, total: int | None) -> AbstractContextManager[Advance]:
        """Show a progress bar for work before or between steps ("tokenizing", "reference")."""

    def note(self, text: str) -> None:
        """Say something worth knowing."""

    def warn(self, text: str) -> None:
        """Say something the person should probably act on."""

    def step(self, record: StepRecord) -> None:
        """Show one step; called for every step, so it must be cheap."""

    def logged(self, record: Record) -> None:
        """Show a train or eval record that was written to the metrics file."""

    def checkpoint(self, record: CheckpointRecord) -> None:
        """Say that a checkpoint is complete."""

    def finished(self, outcome: Outcome) -> None:
        """Show the closing summary."""


class SilentReporter:
    """Shows nothing: the other ranks' reporter, and a test's."""

    def __enter__(self) -> SilentReporter:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def started(self, title: str, facts: dict[str, str]) -> None:  # noqa: D102
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
