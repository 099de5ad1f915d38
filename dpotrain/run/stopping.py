"""A person, a batch system or the recipe's clock asks the run to stop: finish what is begun, save, leave."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from dpotrain.core.errors import RunStopped

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """Set by SIGINT, SIGTERM, SIGUSR1 or a deadline while the context is open; a second SIGINT stops at once.

    Until :meth:`defer` is called there is nothing to save, and the first signal already raises RunStopped.
    Outside the main thread (a notebook's, a test's) signals cannot be caught and are left alone.
    """

    def __init__(self, minutes: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin to wait; ``minutes`` from now the deadline is over, by ``clock`` in seconds."""
        self.name = ""
        """Who asked first."""
        self._clock = clock
        self._deadline = None if minutes is None else clock() + 60 * minutes
        self._deferring = False
        self._before: dict[signal.Signals, Any] = {}

    def __bool__(self) -> bool:
        if not self.name and self._deadline is not None and self._clock() >= self._deadline:
            self.name = "run.max_minutes"
        return bool(self.name)

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def defer(self) -> None:
        """From now on let whoever asks ``bool(stop)`` end the run in good order."""
        self._deferring = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.name == "SIGINT" and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
        if not self._deferring:
            raise RunStopped(f"{self.name} before the first step; nothing is lost, --resume begins the run")
