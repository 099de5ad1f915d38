"""The ranks of this machine as processes of the operating system: started, signalled, waited for."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

#: Seconds between two looks whether a process has ended.
_LOOK = 0.05
#: Bytes of a rank's last output that are kept in mind, and lines of it that are shown.
_TAIL_BYTES, _TAIL_LINES = 16 << 10, 20


def rank_command(words: Sequence[str]) -> list[str]:
    """Return the command of a rank; ``words`` follow ``dpotrain``."""
    # As this process finds modules: in the working folder only if it does so itself.
    alone = [] if str(Path.cwd()) in sys.path or "" in sys.path else ["-P"]
    return [sys.executable, *alone, "-m", "dpotrain", *words]


class RankProcesses:
    """The ranks of this machine, all of which run the same command.

    They are in the process group of this process: Ctrl-C and Ctrl-Z of a terminal reach them directly, and world rank 0
    has the terminal as a run of one process has it. What the others write is kept, and shown if they fail.
    """

    def __init__(self, command: Sequence[str]) -> None:
        """Prepare; ``command`` is a program and its arguments, as :func:`rank_command` returns them."""
        self._command = [*command]
        self._lock = threading.Lock()
        self._running: dict[int, int] = {}
        self._output: dict[int, IO[bytes]] = {}
        self.starts = 0
        """How often all were started."""
        self.codes: dict[int, int] = {}
        """Exit codes by world rank of those that have ended since the last start; minus a signal's number if killed."""
        self.asked: signal.Signals | None = None
        """The first signal that asked to stop."""

    @property
    def running(self) -> bool:
        """Whether one has not been seen to end."""
        return bool(self._running)

    def start(self, environments: Mapping[int, Mapping[str, str]]) -> dict[int, int]:
        """Start a process for each world rank, with its environment added to this one's; return their ids by rank.

        From the second start on the run resumes.
        """
        command = [*self._command]
        if self.starts and "--resume" not in command:
            command.append("--resume")
        with self._lock:
            self.codes = {}
            self._forget_output()
            for rank, environment in environments.items():
                # Signals that this process waits for in a thread are blocked here, and are not to be there.
                pid = os.posix_spawn(
                    command[0],
                    command,
                    {**os.environ, **environment},
                    file_actions=self._files_of(rank),
                    setsigmask=[],
                )
                self._running[pid] = rank
            self.starts += 1
            return {rank: pid for pid, rank in self._running.items()}

    def collect(self) -> None:
        """Note which processes have ended."""
        with self._lock:
            for pid, rank in list(self._running.items()):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    del self._running[pid]
                    self.codes[rank] = os.waitstatus_to_exitcode(status)

    def wait(self, seconds: float, meanwhile: Callable[[], object] = lambda: None) -> bool:
        """Return once all have ended, or after so many seconds, calling ``meanwhile`` often; whether all have."""
        deadline = time.monotonic() + seconds
        self.collect()
        while self.running and time.monotonic() < deadline:
            time.sleep(_LOOK)
            meanwhile()
            self.collect()
        return not self.running

    def send(self, number: signal.Signals) -> None:
        """Send a signal to all that run."""
        with self._lock:
            for pid in self._running:
                os.kill(pid, number)

    def ask(self, number: signal.Signals, *, send: bool) -> bool:
        """Note that a signal asks to stop, and ``send`` it on; return False where no process runs that could stop."""
        with self._lock:
            self.asked = self.asked or number
            if send:
                for pid in self._running:
                    os.kill(pid, number)
            return bool(self._running)

    def last_lines(self, rank: int) -> str:
        """Return the end of what a rank has written; "" for world rank 0, which has written it to the terminal."""
        file = self._output.get(rank)
        if file is None:
            return ""
        size = os.fstat(file.fileno()).st_size
        data = os.pread(file.fileno(), _TAIL_BYTES, max(0, size - _TAIL_BYTES))
        return "\n".join(data.decode(errors="replace").strip().splitlines()[-_TAIL_LINES:])

    def _files_of(self, rank: int) -> list[tuple[int, ...] | tuple[int, int, str, int, int]]:
        if rank == 0:
            return []
        file = tempfile.TemporaryFile(mode="a+b", buffering=0)  # noqa: SIM115  # closed before the next start
        self._output[rank] = file
        return [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, file.fileno(), 1),
            (os.POSIX_SPAWN_DUP2, file.fileno(), 2),
        ]

    def _forget_output(self) -> None:
        for file in self._output.values():
            file.close()
        self._output.clear()
