"""A thread that learns when another process of the run fails, and ends this one if its main thread cannot.

A main thread that waits for its device runs no Python, so that neither a signal nor an error of another process reaches
it. The thread asks the store that the launcher has opened for all processes: a process that fails writes its error
there. Every process counts up a number of its own, which stands still when it is gone without a message; that is looked
at during the exchange of gradients, as everything else that is exchanged notices a lost connection by itself.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # public all the same

from dpotrain.core.errors import ProcessLostError
from dpotrain.core.leaving import flush_output
from dpotrain.engine.parallel.failure import RankFailure

#: Seconds between two questions to the store.
BEAT = 0.5
#: So many questions in a row without a new number of a process, during an exchange, mean that it is gone. They are
#: counted, and no clock is read, so that a run that was suspended as a whole goes on.
SILENT = 80
#: Seconds that the main thread has to end by itself: it notices at its next exchange. Together with the silence that is
#: less than a minute.
GRACE = 15.0
#: Seconds that a process that fails waits until all others have read why: the store may be part of it.
HEARD = 2.0
_FAILED, _HEARD = "failed", "heard"
_RESUME = "Its launcher's output may say why; --resume continues from the last checkpoint."


def leave(failure: RankFailure) -> None:
    """End this process because of another one's failure, whatever its main thread does."""
    os.write(2, f"error: {failure}\n".encode())
    flush_output()
    os._exit(failure.code)


class Watch:
    """Watches the other processes, and tells them of a failure of this one."""

    def __init__(self, rank: int, size: int, name: str) -> None:
        """Begin; ``name`` is this run's among all that use the store, the same on every process."""
        self._rank, self._size, self._host = rank, size, socket.gethostname()
        # A connection of its own: the one of the process group is locked while the main thread waits there.
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(address, port, is_master=False, timeout=timedelta(seconds=60))
        self._store = PrefixStore(f"dpotrain/{name}", store)
        self._store.add(_beat_of(rank), 1)
        self.exchanging = False
        """Whether the main thread may be waiting for other processes by way of its device."""
        self._known = threading.Event()
        self._leaving = threading.Event()
        self._failure: RankFailure | None = None
        self._told: Callable[[RankFailure], None] = _ignore
        self._leave: Callable[[RankFailure], None] = leave
        self._thread = threading.Thread(target=self._run, name="ranks", daemon=True)
        self._thread.start()

    def on_failure(self, told: Callable[[RankFailure], None], leave: Callable[[RankFailure], None]) -> None:
        """Set what is called in the thread: ``told`` at once, ``leave``, which ends the process, after the grace."""
        self._told, self._leave = told, leave

    def failure(self, seconds: float) -> RankFailure | None:
        """Return the failure of another process that came first, if it is known within so many seconds."""
        self._known.wait(seconds)
        return self._failure

    def fail(self, text: str, code: int) -> None:
        """Tell the others that this process ends with an error, unless they know of another failure already."""
        if self._leaving.is_set():
            return
        self._leaving.set()
        try:
            first = self._announce(RankFailure(self._rank, self._host, text, code))
            if not first and not self._known.is_set():
                self._store.add(_HEARD, 1)
            deadline = time.monotonic() + HEARD
            while first and self._store.add(_HEARD, 0) < self._size - 1 and time.monotonic() < deadline:
                time.sleep(BEAT / 10)
        except RuntimeError:  # the store is gone, which they notice as well
            pass
        if threading.current_thread() is not self._thread:
            self._thread.join(HEARD)  # it may be about to call what this thread goes on to do

    def close(self) -> None:
        """Stop watching: from here on every process may end when it likes."""
        self._leaving.set()
        self._thread.join()
        self._told, self._leave = _ignore, leave  # those of the run hold its policy

    def _announce(self, failure: RankFailure) -> bool:
        """Write a failure for all to read, unless there is one; return whether there was none."""
        text = failure.as_json()
        return bool(self._store.compare_set(_FAILED, "", text) == text.encode())

    def _run(self) -> None:
        # The first process looks at all others, and they look at it.
        others = [rank for rank in range(self._size) if rank != self._rank] if self._rank == 0 else [0]
        beats, silent = [0] * len(others), [0] * len(others)
        while not self._leaving.wait(BEAT):
            try:
                self._store.add(_beat_of(self._rank), 1)
                if self._store.check([_FAILED]):
                    failure = RankFailure.from_json(self._store.get(_FAILED))
                    if self._leaving.is_set():  # meanwhile: it may be this one's own
                        return
                    self._store.add(_HEARD, 1)
                    break
                now = [self._store.add(_beat_of(rank), 0) for rank in others]
                same = [new == old and self.exchanging for new, old in zip(now, beats, strict=True)]
                beats, silent = (
                    now,
                    [count + 1 if each else 0 for count, each in zip(silent, same, strict=True)],
                )
                for rank, count in zip(others, silent, strict=True):
                    if count >= SILENT:
                        self._announce(_ended(rank, "it has ended without a message."))
            except RuntimeError:
                failure = _ended(0, "it has ended without a message, or the launcher has.")
                break
        else:
            return
        self._failure = failure
        with suppress(Exception):  # whatever goes wrong there, the process must not stay
            self._told(failure)
        self._known.set()
        if not self._leaving.wait(GRACE):
            self._leave(failure)


def _ignore(failure: RankFailure) -> None:
    """Do nothing."""


def _ended(rank: int, what: str) -> RankFailure:
    return RankFailure(rank, "", f"{what}\n{_RESUME}", ProcessLostError.exit_code)


def _beat_of(rank: int) -> str:
    return f"beat/{rank}"
