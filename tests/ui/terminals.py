"""A real process on a terminal of its own, and what a person sees there."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from rich.cells import cell_len

ROOT = Path(__file__).parents[2]
#: Seconds after which a process that is waited for hangs.
HANGS = 180
_SEQUENCE = re.compile(r"\x1b\[(\??)([0-9;]*)([A-Za-z])|\x1b[78=>]|\r|\n")

#: Starts a program as a job in the foreground of a terminal, and ends as the job does: one whose parent is no shell of
#: the same session could not be suspended.
_SHELL = """
import os, signal, sys
os.setsid()
os.close(os.open(sys.argv[1], os.O_RDWR))
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
job = os.fork()
if job == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpgrp())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.write(int(sys.argv[2]), f"{os.getpid()}\\n".encode())
    os.close(int(sys.argv[2]))
    os.execv(sys.argv[3], sys.argv[3:])
signal.signal(signal.SIGHUP, signal.SIG_IGN)
status = os.waitpid(job, 0)[1]
if os.WIFSIGNALED(status):
    signal.signal(os.WTERMSIG(status), signal.SIG_DFL) if os.WTERMSIG(status) != signal.SIGKILL else None
    os.kill(os.getpid(), os.WTERMSIG(status))
os._exit(os.WEXITSTATUS(status))
"""


class Emulator:
    """Knows the few sequences that the view writes: an ordinary and an alternate screen, and whether there is a cursor.

    The ordinary screen is as long as what was written; a line that is too long is broken, as terminals do.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.ordinary: list[str] = [""]
        self.alternate: list[str] | None = None
        self.cursor = True
        self._row = self._column = 0
        self._rest = ""

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in (self.ordinary if self.alternate is None else self.alternate)]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def resize(self, width: int) -> None:
        """Break the ordinary screen's lines anew, as most terminals do, with the cursor at the end."""
        self.width = width
        self.ordinary = [
            line[start : start + width]
            for line in self.ordinary
            for start in range(0, max(len(line), 1), width)
        ]
        if self.alternate is None:
            self._row, self._column = len(self.ordinary) - 1, len(self.ordinary[-1])

    def feed(self, text: str) -> None:
        text, self._rest = self._rest + text, ""
        if (cut := re.search(r"\x1b(\[[?0-9;]*)?$", text)) is not None:
            text, self._rest = text[: cut.start()], text[cut.start() :]
        at = 0
        for found in _SEQUENCE.finditer(text):
            self._put(text[at : found.start()])
            at = found.end()
            if found[0] == "\r":
                self._column = 0
            elif found[0] == "\n":
                self._row += 1
            elif found[3]:
                self._do(found[1] + found[3], [int(each) for each in found[2].split(";") if each])
        self._put(text[at:])

    def _screen(self) -> list[str]:
        screen = self.ordinary if self.alternate is None else self.alternate
        screen.extend([""] * (self._row + 1 - len(screen)))
        return screen

    def _put(self, text: str) -> None:
        for character in text:
            if self._column >= self.width:
                self._row, self._column = self._row + 1, 0
            screen = self._screen()
            line = screen[self._row].ljust(self._column)
            screen[self._row] = line[: self._column] + character + line[self._column + 1 :]
            self._column += cell_len(character)

    def _do(self, what: str, numbers: Sequence[int]) -> None:
        screen = self._screen()
        if what in ("?h", "?l") and numbers == [1049]:
            if what == "?h":
                self.alternate, self._saved = [], (self._row, self._column)
            elif self.alternate is not None:
                self.alternate, (self._row, self._column) = None, self._saved
        elif what in ("?h", "?l") and numbers == [25]:
            self.cursor = what == "?h"
        elif what == "H":
            self._row, self._column = (numbers[0] - 1, numbers[1] - 1) if numbers else (0, 0)
        elif what == "A":
            self._row = max(0, self._row - (numbers or [1])[0])
        elif what == "K":
            screen[self._row] = screen[self._row][: self._column]
        elif what == "J" and numbers == [2]:
            screen.clear()
        elif what == "J":
            screen[self._row] = screen[self._row][: self._column]
            del screen[self._row + 1 :]


class OnTerminal:
    """A process in the foreground of a terminal, as a shell starts one."""

    def __init__(self, code: str, *arguments: str, size: tuple[int, int] = (80, 24), **more: str) -> None:
        """Run a program of Python; ``size`` is columns and lines, ``more`` goes into the environment."""
        self.screen = Emulator(size[0])
        self.raw = ""
        self._leader, self._follower = pty.openpty()
        self.resize(*size, tell=False)
        self.settings = termios.tcgetattr(self._follower)
        environment = {
            **{name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")},
            "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}",
            "OMP_NUM_THREADS": "1", **more,
        }  # fmt: skip
        program = [sys.executable, "-c", code, *arguments]
        told, tell = os.pipe()
        self._shell = subprocess.Popen(
            [sys.executable, "-c", _SHELL, os.ttyname(self._follower), str(tell), *program],
            stdin=self._follower,
            stdout=self._follower,
            stderr=self._follower,
            cwd=ROOT,
            env=environment,
            pass_fds=[tell],
        )
        os.close(tell)
        with os.fdopen(told) as pid:
            self.pid = int(pid.readline())

    def __enter__(self) -> "OnTerminal":
        return self

    def __exit__(self, *exc: object) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._shell.wait()
        for end in (self._leader, self._follower):
            with suppress(OSError):
                os.close(end)

    def resize(self, width: int, height: int, *, tell: bool = True) -> None:
        fcntl.ioctl(self._leader, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        if tell:
            self.screen.resize(width)

    def press(self, keys: str) -> None:
        os.write(self._leader, keys.encode())

    def read(self, seconds: float = 0.1) -> None:
        """Take what the process writes, for at most so long."""
        if select.select([self._leader], [], [], seconds)[0]:
            written = os.read(self._leader, 65536).decode(errors="replace")
            self.raw += written
            self.screen.feed(written)

    def until(self, seen: str | Callable[[str], object]) -> str:
        """Read until a text is on the screen, or a condition holds of it; return the screen."""
        holds = (lambda text: seen in text) if isinstance(seen, str) else seen
        deadline = time.monotonic() + HANGS
        while not holds(self.screen.text):
            assert time.monotonic() < deadline, f"never seen: {seen}; on the screen:\n{self.screen.text}"
            self.read()
        return self.screen.text

    def end(self) -> int:
        """Read until the process has ended, and what it has written is read; return its exit code."""
        deadline = time.monotonic() + HANGS
        while self.runs():
            assert time.monotonic() < deadline, f"it hangs; on the screen:\n{self.screen.text}"
            self.read()
        # What puts the terminal back after a crash is another process.
        while select.select([self._leader], [], [], 0.5)[0]:
            self.read()
        return self._shell.returncode

    def runs(self) -> bool:
        return self._shell.poll() is None

    def is_stopped(self) -> bool:
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    def hang_up(self) -> None:
        """Take the terminal away."""
        os.close(self._leader)
        os.close(self._follower)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def assert_given_back(self) -> None:
        """The ordinary screen with its cursor, and the settings that the terminal had before."""
        assert self.screen.alternate is None
        assert self.screen.cursor
        assert termios.tcgetattr(self._follower) == self.settings
