"""The interface through which a run shows what it does: a live view, plain lines, or nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Self, TypeAlias

from dpotrain.core.controls import Controls
from dpotrain.core.errors import RunWarning
from dpotrain.core.records import CheckpointRecord, Outcome, Record, SamplesRecord, StepRecord

#: Advances a phase's progress bar by a count.
Advance: TypeAlias = Callable[[int], None]


class Reporter:
    """Everything that a run shows goes through one of these; :mod:`dpotrain.ui` has a live view and plain lines.

    Used as a context manager around the whole run, so that a live display is always removed.
    Only the main process's reporter shows anything, and this base class nothing.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def started(self, title: str, info: dict[str, str], total_steps: int = 0) -> None:
        """Show the run that starts: ``info`` is labelled lines (model, data, trained parameters, …)."""

    def phase(self, name: str, total: int | None) -> AbstractContextManager[Advance]:
        """Show a progress bar for work before or between steps ("tokenizing", "reference")."""
        return nullcontext(lambda count: None)

    def note(self, text: str) -> None:
        """Show a note."""

    def warn(self, text: str) -> None:
        """Show a warning, which the user should probably act on."""

    def controls(self, controls: Controls) -> None:
        """Take what a person can ask of the run with; called before anything is loaded."""

    def resumed(self, records: Sequence[Record], samples: Sequence[SamplesRecord]) -> None:
        """Take what the run wrote before it was resumed; called once the checkpoint is restored."""

    def microbatch(self, step: int, done: int, total: int) -> None:
        """Show that ``done`` of the ``total`` micro-batches of ``step`` are computed; it must be cheap."""

    def step(self, record: StepRecord) -> None:
        """Show one step; called for every step, so it must be cheap."""

    def logged(self, record: Record) -> None:
        """Show a train or eval record that was written to the metrics file."""

    def samples(self, record: SamplesRecord) -> None:
        """Show what the policy answers."""

    def checkpoint(self, record: CheckpointRecord) -> None:
        """Show that a checkpoint is complete."""

    def finished(self, outcome: Outcome) -> None:
        """Show the closing summary."""


class Reporters(Reporter):
    """Passes everything on to several reporters, in order; whoever made them enters and leaves them."""

    def __init__(self, *reporters: Reporter) -> None:
        self.reporters = reporters

    def started(self, title: str, info: dict[str, str], total_steps: int = 0) -> None:  # noqa: D102
        for each in self.reporters:
            each.started(title, info, total_steps)

    @contextmanager
    def phase(self, name: str, total: int | None) -> Iterator[Advance]:  # noqa: D102
        with ExitStack() as stack:
            advances = [stack.enter_context(each.phase(name, total)) for each in self.reporters]

            def advance(count: int = 1) -> None:
                for one in advances:
                    one(count)

            yield advance

    def note(self, text: str) -> None:  # noqa: D102
        for each in self.reporters:
            each.note(text)

    def warn(self, text: str) -> None:  # noqa: D102
        for each in self.reporters:
            each.warn(text)

    def controls(self, controls: Controls) -> None:  # noqa: D102
        for each in self.reporters:
            each.controls(controls)

    def resumed(self, records: Sequence[Record], samples: Sequence[SamplesRecord]) -> None:  # noqa: D102
        for each in self.reporters:
            each.resumed(records, samples)

    def microbatch(self, step: int, done: int, total: int) -> None:  # noqa: D102
        for each in self.reporters:
            each.microbatch(step, done, total)

    def step(self, record: StepRecord) -> None:  # noqa: D102
        for each in self.reporters:
            each.step(record)

    def logged(self, record: Record) -> None:  # noqa: D102
        for each in self.reporters:
            each.logged(record)

    def samples(self, record: SamplesRecord) -> None:  # noqa: D102
        for each in self.reporters:
            each.samples(record)

    def checkpoint(self, record: CheckpointRecord) -> None:  # noqa: D102
        for each in self.reporters:
            each.checkpoint(record)

    def finished(self, outcome: Outcome) -> None:  # noqa: D102
        for each in self.reporters:
            each.finished(outcome)


class SilentReporter(Reporter):
    """Shows nothing: for ranks other than the main process, and for tests."""


@contextmanager
def showing_warnings(reporter: Reporter) -> Iterator[None]:
    """Show every RunWarning that the block raises, each text once; other warnings go where they would without it."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", RunWarning)
        elsewhere = warnings.showwarning
        said: set[str] = set()

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, RunWarning):
                if str(message) not in said:
                    reporter.warn(str(message))
                said.add(str(message))
            else:
                elsewhere(message, category, *where, **more)

        warnings.showwarning = show
        yield
