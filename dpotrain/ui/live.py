"""The live view of a run on a terminal: finished lines above, a redrawn region below."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Self

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.panel import Panel
from rich.table import Column, Table
from rich.text import Text

from dpotrain.core.formats import count, duration, printable
from dpotrain.core.records import CheckpointRecord, Outcome, Record, StepRecord
from dpotrain.core.reporter import Advance, Reporter
from dpotrain.ui.summary import summary
from dpotrain.ui.view import PhaseState, ViewState, picture

#: A thread redraws, so that the clock advances during a long step. A redraw takes a few milliseconds.
REDRAWS_PER_SECOND = 2.0


class LiveReporter(Reporter):
    """Draws on a terminal; with ``redraws`` False only on :meth:`refresh`, for tests. A closed one ends no run."""

    def __init__(
        self, console: Console, clock: Callable[[], float] = time.monotonic, *, redraws: bool = True
    ) -> None:
        self._console = console
        self._clock = clock
        self._state = ViewState(begun=clock())
        self._live = Live(
            self, console=console, auto_refresh=redraws, refresh_per_second=REDRAWS_PER_SECOND, transient=True
        )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield picture(self._state, self._clock(), options.max_width)

    def __enter__(self) -> Self:
        with suppress(OSError):
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        with suppress(OSError):
            self._live.stop()

    def refresh(self) -> None:
        """Draw now."""
        with suppress(OSError):
            self._live.refresh()

    def started(self, title: str, info: dict[str, str]) -> None:
        """Print the header: the title, and one line for each entry of ``info``."""
        lines = Table.grid(Column(style="dim", no_wrap=True), Column(overflow="fold"), padding=(0, 2, 0, 0))
        for label, value in info.items():
            lines.add_row(Text(printable(label)), Text(printable(value)))
        heading = Text(printable(title), style="bold")
        self._print(Panel(lines, title=heading, title_align="left", border_style="dim"))

    @contextmanager
    def phase(self, name: str, total: int | None) -> Iterator[Advance]:
        """Show a bar during the phase, and then a line with its duration."""
        phase = PhaseState(printable(name), total, self._clock())
        self._state.phases.append(phase)

        def advance(count: int = 1) -> None:
            phase.done += count

        try:
            yield advance
        finally:
            self._state.phases.remove(phase)
        # Phases between steps (evaluations) recur; the view shows their results.
        if self._state.pace.last is None:
            amount = f" {count(phase.done)}" if phase.done else ""
            took = duration(self._clock() - phase.begun)
            self._print(Text.assemble(("✓ ", "green"), f"{phase.name}{amount} ", (f"in {took}", "dim")))

    def note(self, text: str) -> None:
        """Print a line above the live region."""
        self._print(Text(printable(text), style="dim"), whole_lines=True)

    def warn(self, text: str) -> None:
        """Print a line above the live region, marked."""
        self._print(Text.assemble(("warning: ", "bold yellow"), printable(text)), whole_lines=True)

    def step(self, record: StepRecord) -> None:
        """Add the step to the view. Nothing is drawn here, so that steps stay fast."""
        state = self._state
        state.pace.add(record)
        if "loss" in record.metrics:
            state.losses.append(record.metrics["loss"])
        state.memory_mb = record.metrics.get("peak_memory_mb", state.memory_mb)

    def logged(self, record: Record) -> None:
        """Add an evaluation to the view; a train record adds only what steps do not have."""
        state = self._state
        if record.kind == "train":
            state.memory_mb = record.metrics.get("peak_memory_mb", state.memory_mb)
            return
        state.first_evaluation = state.first_evaluation or record.metrics
        state.evaluation, state.evaluation_step = record.metrics, record.step

    def checkpoint(self, record: CheckpointRecord) -> None:
        """Show the newest checkpoint's step."""
        self._state.checkpoint_step = record.step

    def finished(self, outcome: Outcome) -> None:
        """Remove the live region and print the closing summary."""
        self.__exit__()
        self._print(summary(outcome))

    def _print(self, renderable: RenderableType, *, whole_lines: bool = False) -> None:
        """Print above the live region; ``whole_lines`` are not wrapped, so that commands and paths can be copied."""
        with suppress(OSError):
            self._console.print(renderable, crop=False, soft_wrap=whole_lines)
