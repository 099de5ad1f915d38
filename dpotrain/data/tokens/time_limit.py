"""A limit on the processor time of code that may never end: a chat template is a program that comes with a model."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


class TimeLimitExceeded(BaseException):  # not an Exception: the interrupted code must not catch it
    """The block exceeded its time limit."""


@contextmanager
def cpu_time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeLimitExceeded in the block once it has used ``seconds`` of the process's own processor time.

    There is no limit where the system has no such timer, or outside the main thread, which alone can set one.
    """
    if not hasattr(signal, "SIGVTALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGVTALRM, _stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise TimeLimitExceeded
