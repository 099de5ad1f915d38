"""The thread that runs one logger's calls, so that no step waits for them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from dpotrain.core.errors import describe_exception

#: Calls that may be queued for a logger. One that is further behind would not catch up, and its queue takes memory.
MOST_WAITING = 10_000


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a logger's method."""

    what: str
    """In words, for messages: ``log of step 40``."""
    make: Callable[[], object]


class LoggerThread:
    """Runs a logger's calls one after the other, in the order in which they were queued.

    The thread is a daemon, so one that hangs does not keep the process from ending. After a call that raises, no
    other is made.
    """

    def __init__(self, name: str, module: str = "") -> None:
        """Make a thread for the logger of that name; ``module`` is that of its class, for messages."""
        self._module = module
        self._changed = threading.Condition()
        """Guards everything below."""
        self._waiting: deque[Call] = deque()
        self._current: Call | None = None
        self._since = 0.0
        self._closed = False
        self._ended = False
        self._fault = ""
        self._thread = threading.Thread(target=self._work, name=f"logger {name}", daemon=True)

    def put(self, call: Call) -> None:
        """Queue a call, which is made after those before it; returns at once."""
        with self._changed:
            if self._closed:
                return
            if len(self._waiting) == MOST_WAITING:
                self._fault = f"it is {MOST_WAITING} calls behind, the next is {self._waiting[0].what}"
                self.abandon()
                return
            self._waiting.append(call)
            if self._thread.ident is None:
                self._thread.start()
            self._changed.notify_all()

    def fault(self, patience: float) -> str:
        """Return why the logger does not work: a call raised, or has not returned for ``patience`` seconds; else ""."""
        with self._changed:
            current = self._current
            if self._fault or current is None or time.monotonic() - self._since < patience:
                return self._fault
            behind = f", and {len(self._waiting)} calls wait for it" if self._waiting else ""
            return f"{current.what} has not returned for {patience:g} s{behind}"

    def close(self) -> None:
        """Accept no more calls, and let the thread end after those that are queued."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Wait at most ``seconds`` after :meth:`close` until all calls are done, and return whether they are."""
        with self._changed:
            idle = self._thread.ident is None
            return idle or self._changed.wait_for(lambda: self._ended, max(0.0, seconds))

    def undone(self) -> list[str]:
        """Return the calls that are not done, in words: the running one first."""
        with self._changed:
            current = [] if self._current is None else [self._current.what]
            return [*current, *(call.what for call in self._waiting)]

    def abandon(self) -> None:
        """Drop queued calls, and let the thread end when the running call returns, if it ever does."""
        with self._changed:  # which its holder may enter again
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()

    def _work(self) -> None:
        while (call := self._next()) is not None:
            try:
                call.make()
            except BaseException as error:  # sys.exit() too, which would end the thread silently
                with self._changed:
                    self._fault = f"{call.what} raised {describe_exception(error, self._module)}"
                    self.abandon()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _next(self) -> Call | None:
        with self._changed:
            self._current = None
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return None
            self._current, self._since = self._waiting.popleft(), time.monotonic()
            return self._current
