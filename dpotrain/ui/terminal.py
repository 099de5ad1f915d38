"""The terminal while a view has it: its settings, its screen, and what libraries write to it meanwhile."""

from __future__ import annotations

import atexit
import fcntl
import os
import signal
import subprocess
import tempfile
import termios
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import IO, Any

from dpotrain.core.leaving import flush_output

_ALTERNATE, _ORDINARY = "\x1b[?1049h\x1b[H\x1b[2J", "\x1b[?1049l"
_HIDE, _SHOW = "\x1b[?25l", "\x1b[?25h"
#: Control characters that the view acts on instead of the terminal's driver, so that the screen is put back before the
#: process is suspended. Those that interrupt and end it stay the driver's, which obeys where no Python runs, too.
_KEPT_FROM_DRIVER = ("VSUSP", "VDSUSP")
_ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
#: Bytes of taken output from which its file is emptied.
_MUCH_OUTPUT = 1 << 20

#: Puts the terminal back, and shows what was written last, if this process dies without doing so: killed, or by a crash
#: in a library's C code, whose message went to the file. It ends when it reads a line or the end of its input.
_GUARD = """
trap '' HUP INT QUIT TERM TSTP
read -r line && exit 0
printf '%s' "$2"
stty "$3" <&1
tail -c 4000 "/dev/fd/$1"
"""


def usable() -> bool:
    """Whether standard output is a terminal of which this process is in the foreground."""
    try:
        return os.isatty(1) and os.tcgetpgrp(1) == os.getpgrp()
    except OSError:
        return False


def size_of(handle: int) -> tuple[int, int]:
    """Return a terminal's columns and lines; (0, 0) where it does not know them, or is gone."""
    try:
        columns, lines = os.get_terminal_size(handle)
    except OSError:
        return 0, 0
    return columns, lines


class Terminal:
    """Owns the terminal of standard output from :meth:`open` to :meth:`close`.

    Meanwhile :meth:`write` writes to it, and what others write to standard output and error, C code and child
    processes included, is kept for :meth:`output`.
    """

    def __init__(self, *, full: bool) -> None:
        """Prepare; a ``full`` view takes the alternate screen, another one some lines of the ordinary one."""
        self.full = full
        self._pid = os.getpid()
        self._open = self._entered = False
        self._signals_before: dict[signal.Signals, Any] = {}
        self._settings: list[Any] | None = None

    def open(self) -> None:
        """Take the terminal."""
        flush_output()
        self._handle = os.dup(1)
        self.file: IO[str] = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace")
        self.has_keys = _is_terminal(0, self._handle)
        """Whether keys can be read: standard input is this terminal."""
        self._kept, self._taken = _memory_file(), 0
        self._saved = {number: os.dup(number) for number in (1, 2) if _is_terminal(number, self._handle)}
        self._guard = self._start_guard()
        for number in self._saved:
            os.dup2(self._kept, number)
        if threading.current_thread() is threading.main_thread():
            for ending in _ENDING_SIGNALS:
                if signal.getsignal(ending) is signal.SIG_DFL:
                    self._signals_before[ending] = signal.signal(ending, self._end)
        atexit.register(self.close)
        self._open = True
        self.enter()

    def close(self) -> None:
        """Give everything back; output that was not taken goes to standard error. A forked child gives nothing back."""
        if not self._open or os.getpid() != self._pid:
            return
        self.leave()
        self._open = False
        flush_output()
        for number, saved in self._saved.items():
            os.dup2(saved, number)
            os.close(saved)
        with suppress(OSError):
            os.write(2, self._take())
        if self._guard is not None:
            with suppress(OSError, subprocess.SubprocessError):
                self._guard.communicate(b"done\n", timeout=1)
        if threading.current_thread() is threading.main_thread():
            for ending, before in self._signals_before.items():
                if signal.getsignal(ending) == self._end:
                    signal.signal(ending, before)
        atexit.unregister(self.close)
        with suppress(OSError):
            self.file.close()
        os.close(self._kept)
        os.close(self._handle)

    def enter(self) -> None:
        """Take screen and keys, at first and after a suspension; in the background do nothing."""
        if not self._open or not self.foreground():
            return
        if self.has_keys:
            settings = termios.tcgetattr(self._handle)
            if not self._entered:
                self._settings = [*settings[:6], list(settings[6])]
            settings[3] &= ~(termios.ICANON | termios.ECHO)
            characters = settings[6]
            characters[termios.VMIN], characters[termios.VTIME] = 1, 0
            for name in _KEPT_FROM_DRIVER:
                if (place := getattr(termios, name, None)) is not None:
                    characters[place] = b"\0"
            termios.tcsetattr(self._handle, termios.TCSADRAIN, settings)
        self._entered = True
        self.write((_ALTERNATE if self.full else "") + _HIDE)

    def leave(self) -> None:
        """Give screen and keys back, for a while or for good."""
        if not self._entered:
            return
        self._entered = False
        self.write((_ORDINARY if self.full else "") + _SHOW)
        if self._settings is not None and self.foreground():
            with suppress(termios.error):
                termios.tcsetattr(self._handle, termios.TCSADRAIN, self._settings)

    def foreground(self) -> bool:
        """Whether this process may change the terminal: in the background that would stop it."""
        try:
            return os.tcgetpgrp(self._handle) == os.getpgrp()
        except OSError:
            return False

    def suspend(self) -> None:
        """Stop all processes of this job, as Ctrl-Z does, and return when it goes on in the foreground."""
        self.leave()
        os.kill(0, signal.SIGTSTP)
        # Another thread may get the signal, which then stops this one a moment later.
        time.sleep(0.2)
        while self._open and not self.foreground():
            time.sleep(0.2)
        self.enter()

    def read(self) -> bytes:
        """Return the keys that were pressed."""
        try:
            return os.read(self._handle, 64)
        except OSError:
            return b""

    def fileno(self) -> int:
        """Return what :func:`select.select` waits at for keys."""
        return self._handle

    def size(self) -> tuple[int, int]:
        """Return columns and lines, as :func:`size_of` does."""
        return size_of(self._handle)

    def write(self, text: str) -> None:
        """Write to the terminal; one that is gone ends no run."""
        with suppress(OSError, ValueError):
            self.file.write(text)
            self.file.flush()

    def output(self) -> str:
        """Return whole lines that others wrote to standard output and error since the last call."""
        if not self._open:
            return ""
        return self._take(whole_lines=True).decode(errors="replace")

    def _take(self, *, whole_lines: bool = False) -> bytes:
        data = os.pread(self._kept, _MUCH_OUTPUT, self._taken)
        if whole_lines:
            data = data[: max(data.rfind(b"\n"), data.rfind(b"\r")) + 1]
        self._taken += len(data)
        if self._taken > _MUCH_OUTPUT and os.fstat(self._kept).st_size == self._taken:
            os.ftruncate(self._kept, 0)
            self._taken = 0
        return data

    def _end(self, number: int, frame: FrameType | None) -> None:
        self.close()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _start_guard(self) -> subprocess.Popen[bytes] | None:
        back = (_ORDINARY if self.full else "\r\n") + _SHOW + "\x1b[0m"
        try:
            settings = subprocess.check_output(["stty", "-g"], stdin=self._handle, text=True).strip()
            return subprocess.Popen(
                ["/bin/sh", "-c", _GUARD, "dpotrain-terminal", str(self._kept), back, settings],
                stdin=subprocess.PIPE,
                stdout=self._handle,
                stderr=subprocess.DEVNULL,
                pass_fds=[self._kept],
                start_new_session=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None


def _memory_file() -> int:
    """Return a file to append to that no full disk stops, where the system has such, else a temporary one."""
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("dpotrain-output")
    else:
        with tempfile.TemporaryFile() as file:
            handle = os.dup(file.fileno())
    fcntl.fcntl(handle, fcntl.F_SETFL, fcntl.fcntl(handle, fcntl.F_GETFL) | os.O_APPEND)
    return handle


def _is_terminal(number: int, terminal: int) -> bool:
    try:
        return os.isatty(number) and os.fstat(number).st_rdev == os.fstat(terminal).st_rdev
    except OSError:
        return False
