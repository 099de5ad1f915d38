"""The live view of a run on a terminal: a dashboard where there is room, some lines below what stays elsewhere."""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Self

from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.table import Column, Table
from rich.text import Text

from dpotrain.core.records import Outcome
from dpotrain.core.reporter import Advance
from dpotrain.ui.dashboard import Screen, dashboard
from dpotrain.ui.keys import Action, pressed
from dpotrain.ui.paint import FullScreen, Ink, Region
from dpotrain.ui.state import Line, Tracker
from dpotrain.ui.summary import summary
from dpotrain.ui.terminal import Terminal, size_of
from dpotrain.ui.view import picture
from dpotrain.ui.wrapping import wrapped

#: Columns and lines from which the view takes the whole screen.
FULL_SIZE = (80, 24)
#: Seconds between two pictures, so that clocks go, and the most of a processor that they may take: where one takes
#: longer (5 to 10 ms are usual), they are rarer. A phase that begins and a key that is pressed are shown at once.
REDRAW_SECONDS = 1.0
REDRAW_SHARE = 0.01
#: Seconds from one look at the size of the terminal to the next, and at least from one picture to the next.
LOOK_SECONDS = 0.25
GAP_SECONDS = 0.1
#: A longer gap between two looks means that the process was stopped, and something else was on the screen.
STOPPED_SECONDS = 3.0
#: Seconds that the last picture may take: a terminal that takes nothing keeps no run from ending.
LAST_SECONDS = 5.0

logger = logging.getLogger("dpotrain")
output_logger = logging.getLogger("dpotrain.output")


class LiveReporter(Tracker):
    """Draws on the terminal of standard output, in a thread; no call of the run waits for the terminal."""

    def __init__(
        self,
        console: Console,
        clock: Callable[[], float] = time.monotonic,
        evaluate_every: int | None = None,
    ) -> None:
        super().__init__(clock, evaluate_every)
        self.screen = Screen()
        self.left = threading.Event()
        """Set where the person leaves a run that is another process's."""
        self._console = console
        self._printed = 0
        self._thread: threading.Thread | None = None
        self._wake_up = -1

    def __enter__(self) -> Self:
        width, height = _size(self._console, size_of(1))
        terminal = Terminal(full=width >= FULL_SIZE[0] and height >= FULL_SIZE[1])
        terminal.open()
        self._terminal = terminal
        self.screen.keys = terminal.has_keys
        self._ink = Ink(self._console)
        self._full, self._region = FullScreen(self._ink), Region(self._ink)
        self._woken, self._wake_up = os.pipe()
        os.set_blocking(self._wake_up, False)
        self._ends = False
        self._thread = threading.Thread(target=self._run, name="view", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Take the view down, and print what was said meanwhile."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._ends = True
        self._wake()
        thread.join(LAST_SECONDS)
        self._log_output()
        if not self._terminal.full:
            self._terminal.write(self._region.erase(self._size()[0]))
        self._terminal.close()
        if not thread.is_alive():
            os.close(self._woken)
            os.close(self._wake_up)
            self._wake_up = -1
        with suppress(OSError):
            for what, whole_lines in self._to_print(self._console.width):
                self._console.print(what, soft_wrap=whole_lines, crop=False)

    @contextmanager
    def phase(self, name: str, total: int | None) -> Iterator[Advance]:
        """Show the phase at once."""
        with super().phase(name, total) as advance:
            self._wake()
            yield advance
        self._wake()

    def note(self, text: str) -> None:
        """Show a note at once: it may acknowledge Ctrl-C."""
        super().note(text)
        self._wake()

    def warn(self, text: str) -> None:
        """Show a warning at once."""
        super().warn(text)
        self._wake()

    def finished(self, outcome: Outcome) -> None:
        """Take the view down and print the closing summary."""
        super().finished(outcome)
        self.__exit__()
        with suppress(OSError):
            self._console.print(summary(outcome), crop=False)

    def _wake(self) -> None:
        with suppress(OSError):  # a full pipe wakes it, too
            os.write(self._wake_up, b"\0")

    def _run(self) -> None:
        try:
            self._watch()
        except Exception:
            logger.exception("the view failed")
            self.state.say(
                "warning", "the view failed, and the run went on without it; run.log has the traceback"
            )
            self._terminal.close()

    def _watch(self) -> None:
        terminal, drawn, looked, size = self._terminal, float("-inf"), time.monotonic(), (0, 0)
        due, pause = True, REDRAW_SECONDS
        while not self._ends:
            if (now := time.monotonic()) - looked > STOPPED_SECONDS:
                self._take_again()
                due = True
            looked = now
            foreground = terminal.foreground()
            if size != (size := self._size()):
                due = True
            if foreground and now - drawn >= (GAP_SECONDS if due else pause):
                began = time.thread_time()
                self._log_output()
                self._draw(*size)
                drawn, due = time.monotonic(), False
                pause = max(REDRAW_SECONDS, (time.thread_time() - began) / REDRAW_SHARE)
            wait: list[int | Terminal] = [
                self._woken,
                *([terminal] if terminal.has_keys and foreground else []),
            ]
            ready, _, _ = select.select(wait, [], [], GAP_SECONDS if due else LOOK_SECONDS)
            if self._woken in ready:
                os.read(self._woken, 4096)
                due = True
            if terminal in ready:
                due = True
                if not (data := terminal.read()):  # the terminal is gone
                    terminal.has_keys = False
                for action in pressed(data, self.screen, self.state):
                    self._act(action)
                looked = time.monotonic()

    def _act(self, action: Action) -> None:
        if action == "leave":
            self.left.set()
            return
        if not self._terminal.full:
            self._terminal.write(self._region.erase(self._size()[0]))
        self._terminal.suspend()
        self._full.forget()

    def _take_again(self) -> None:
        self._terminal.enter()
        self._full.forget()
        self._region.forget()

    def _draw(self, width: int, height: int) -> None:
        now = self.clock()
        if self._terminal.full:
            block = dashboard(self.state, self.screen, now, width, height)
            self._terminal.write(self._full.paint(block, width, height))
            return
        above = "".join(
            self._ink.printed(what, width, whole_lines=whole_lines)
            for what, whole_lines in self._to_print(width)
        )
        block = picture(self.state, now, width - 1)
        if self.screen.asks:
            block.append(Text(self.screen.asks[: width - 1], style="bold reverse"))
        self._terminal.write(self._region.paint(block, width, height, above))

    def _to_print(self, width: int) -> Iterator[tuple[RenderableType, bool]]:
        """Yield what was said since the last call, and whether its lines stay whole, so that they can be copied."""
        new = self.state.said - self._printed
        lines = list(self.state.lines)[-new:] if new else []
        if len(lines) < new:
            yield Text(f"({new - len(lines):,} earlier lines are in run.log)", style="dim"), True
        self._printed += new
        for line in lines:
            yield (self._header(), False) if line.kind == "header" else (_written(line, width), True)

    def _header(self) -> RenderableType:
        lines = Table.grid(Column(style="dim", no_wrap=True), Column(overflow="fold"), padding=(0, 2, 0, 0))
        for label, value in self.state.info.items():
            lines.add_row(Text(label), Text(value))
        return Panel(
            lines, title=Text(self.state.title, style="bold"), title_align="left", border_style="dim"
        )

    def _size(self) -> tuple[int, int]:
        return _size(self._console, self._terminal.size())

    def _log_output(self) -> None:
        """Send what libraries wrote to run.log, once there is one."""
        if not output_logger.isEnabledFor(logging.INFO):
            return
        for line in self._terminal.output().replace("\r", "\n").split("\n"):
            if line.strip():
                output_logger.info("%s", line.rstrip())


def _written(line: Line, width: int) -> Text:
    if line.kind == "phase":
        name, separator, took = line.text.rpartition(" in ")
        return Text.assemble(("✓ ", "green"), name, (separator + took, "dim"))
    if line.kind == "warning":
        text = wrapped(f"warning: {line.text}", width).removeprefix("warning: ")
        return Text.assemble(("warning: ", "bold yellow"), text)
    return Text(wrapped(line.text, width), style="dim")


def _size(console: Console, terminal: tuple[int, int]) -> tuple[int, int]:
    """Return the terminal's size, or where it does not know one what the console assumes."""
    return terminal if all(terminal) else (console.width, console.height)
