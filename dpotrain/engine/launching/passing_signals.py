"""What asks the launcher to stop asks every rank, once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dpotrain.core.errors import RunStopped
from dpotrain.core.leaving import flush_output
from dpotrain.engine.launching.processes import RankProcesses

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@contextmanager
def passing_signals(processes: RankProcesses, show: Callable[[RunStopped], None]) -> Iterator[None]:
    """Send what arrives here on to the ranks while the context is open.

    Enter it before a library makes threads: the signals are blocked in this one and in those that it starts, and a
    thread waits for them. A terminal sends its own to every process of the group, the ranks too, so these are not sent
    on. Without a rank that could save, the process ends, and ``show`` says so.
    """
    over = threading.Event()

    def receive() -> None:
        while True:
            # sigtimedwait would return nonsense where its time is over after Ctrl-Z.
            info = signal.sigwaitinfo(SIGNALS)
            if over.is_set():
                return
            number = signal.Signals(info.si_signo)
            of_the_kernel = info.si_code > 0  # a terminal's; kill() has 0 or less
            if not processes.ask(number, send=not of_the_kernel):
                stopped = RunStopped(
                    f"{number.name} while no process of the run was running; --resume begins or continues the run"
                )
                show(stopped)
                flush_output()
                os._exit(stopped.exit_code)

    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    thread = threading.Thread(target=receive, name="signals for ranks", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        assert thread.ident is not None
        signal.pthread_kill(thread.ident, signal.SIGUSR1)
        thread.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
