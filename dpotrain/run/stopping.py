"""A person, a batch system or the recipe's clock asks the run to stop: finish what is begun, save, leave."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, ClassVar

from dpotrain.core.controls import Controls
from dpotrain.core.errors import RunStopped

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

#: Seconds that the main thread has to notice a signal before a thread of its own speaks or acts for it: it may be
#: inside a backward pass of many seconds, in which Python runs no signal handler.
NOTICE_SECONDS = 0.5


#: Seconds in which a second SIGINT is the first one again, where a launcher has started this process: sent to the whole
#: process group (``timeout -s INT``, an IDE), it arrives directly, and once more as the launcher passes it on.
REPEAT_SECONDS = 1.0


class StopRequest:
    """Set by SIGINT, SIGTERM, SIGUSR1 or a deadline while the context is open; a second SIGINT stops at once.

    Until :meth:`defer` is called there is nothing to save, and the first signal already raises RunStopped.
    Outside the main thread (a notebook's, a test's) signals cannot be caught and are left alone.
    """

    def __init__(
        self,
        controls: Controls | None = None,
        *,
        minutes: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Begin to wait.

        ``controls`` is told of every request, and its own count; ``minutes`` from now the deadline is over, by
        ``clock`` in seconds; ``say`` acknowledges a signal, from a thread of its own.
        """
        self.controls = Controls() if controls is None else controls
        self.leave_at_once: Callable[[], None] | None = None
        """Ends the process where a second SIGINT finds the main thread busy; called in another thread."""
        self._clock = clock
        self._deadline = None if minutes is None else clock() + 60 * minutes
        self._say = say
        self._deferring = self._ended = False
        self._before: dict[signal.Signals, Any] = {}
        self._repeats = REPEAT_SECONDS if "TORCHELASTIC_RUN_ID" in os.environ else 0.0
        self._interrupts_handled = self._interrupts_seen = self._interrupts = 0
        self._last_interrupt = -math.inf
        self._noticed = threading.Event()
        self._raised = threading.Event()
        self._watch: _SignalWatch | None = None

    @property
    def name(self) -> str:
        """Who asked first; empty while nobody has."""
        return self.controls.stop_reason

    def __bool__(self) -> bool:
        if not self.controls.stopping and self._deadline is not None and self._clock() >= self._deadline:
            self.controls.stop("run.max_minutes")
        return self.controls.stopping

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._handle)
            self._watch = _SignalWatch(self._seen)
            self.controls.on_stop = self._interrupt_loading
        return self

    def __exit__(self, *exc: object) -> None:
        self.controls.on_stop = lambda: None
        self.leave_at_once = (
            None  # it holds the run with its policy, which leaves memory before anything is exported
        )
        for number, before in self._before.items():
            signal.signal(number, before)
        if self._watch is not None:
            self._watch.close()

    def defer(self) -> None:
        """From now on let whoever asks ``bool(stop)`` end the run in good order."""
        self._deferring = True

    def _interrupt_loading(self) -> None:
        """Before there is anything to save nobody asks ``bool(stop)``: let a signal end what the main thread does."""
        if not self._deferring:
            os.kill(os.getpid(), signal.SIGUSR1)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Run in the main thread, as soon as Python runs there: two signals that came in between are one call."""
        self._noticed.set()
        if number == signal.SIGINT:
            self._interrupts_handled += 1
            # The other thread knows when each came; it may not have got round to this one.
            deadline = time.monotonic() + NOTICE_SECONDS
            while self._interrupts_seen < self._interrupts_handled and time.monotonic() < deadline:
                time.sleep(0.001)
            if self._interrupts > 1:
                self._raised.set()
                raise KeyboardInterrupt
        if not self._deferring:
            if self._ended:  # a batch system signals every process, and a launcher passes its own on
                return
            self._ended = True
            self.controls.on_stop = lambda: None
            self.controls.stop(signal.Signals(number).name)
            raise RunStopped(f"{self.name} before the first step; nothing is lost, --resume begins the run")
        self.controls.stop(signal.Signals(number).name)

    def _seen(self, number: signal.Signals) -> None:
        """Run in the watching thread, at once."""
        if number == signal.SIGINT:
            now = time.monotonic()
            repeated = now - self._last_interrupt < self._repeats
            self._interrupts += not repeated
            self._interrupts_seen += 1
            if repeated:
                return
            self._last_interrupt = now
        if number == signal.SIGINT and self._interrupts > 1:
            self._say("Ctrl-C again: stopping now")
            if not self._raised.wait(NOTICE_SECONDS) and self.leave_at_once is not None:
                self.leave_at_once()
        elif self._deferring:
            self._say(
                f"{number.name}: stopping after this micro-batch, then saving; Ctrl-C again stops now, without saving"
            )
        elif not self._noticed.wait(NOTICE_SECONDS):
            self._say(f"{number.name}: stopping as soon as the present work returns")


class _SignalWatch:
    """A thread that is told of signals when they arrive, also while the main thread runs no Python."""

    active: ClassVar[bool] = False

    def __init__(self, seen: Callable[[signal.Signals], None]) -> None:
        type(self).active = True
        self._seen = seen
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        threading.Thread(target=self._run, name="signals", daemon=True).start()

    def close(self) -> None:
        """Stop watching."""
        type(self).active = False
        signal.set_wakeup_fd(self._before)
        os.close(self._write)

    def _run(self) -> None:
        while data := os.read(self._read, 1):
            if data[0] in SIGNALS:
                self._seen(signal.Signals(data[0]))
        os.close(self._read)


def _in_fork() -> None:
    """Keep a forked process from reporting its signals to the one that it was forked from."""
    if _SignalWatch.active:
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_in_fork)
