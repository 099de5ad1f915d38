"""One process at a time owns a run folder; the others are told who does."""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from dpotrain.core.atomic import write_json
from dpotrain.core.errors import RunError


class RunLock:
    """Owns an existing run folder while the context is open.

    The lock is the operating system's, so that a process that was killed holds nothing: nobody has to find out whether
    a lock is stale. Who holds it stands in a file beside it, for the message.
    """

    def __init__(
        self,
        folder: Path,
        remedy: str = "Wait for it or end it, or choose another folder: --set run.output_dir=…",
        patience: float = 0.0,
    ) -> None:
        """Prepare to take ``folder``; ``remedy`` is said where another process owns it after ``patience`` seconds."""
        self.folder = folder
        self.remedy = remedy
        self.patience = patience
        self.owner = folder / ".owner.json"
        self._lock = FileLock(folder / ".lock")

    def __enter__(self) -> RunLock:
        """Take the folder.

        Raises:
            RunError: another process owns it, or nothing can be written there.
        """
        try:
            self._lock.acquire(timeout=self.patience)
            since = time.strftime("%Y-%m-%d %H:%M:%S %z")
            write_json(self.owner, {"pid": os.getpid(), "host": socket.gethostname(), "since": since})
        except Timeout as error:
            raise RunError(
                f"{self.folder} is in use: {self._described()} is running there.\n{self.remedy}"
            ) from error
        except OSError as error:
            if self._lock.is_locked:
                self.__exit__()
            raise RunError(f"cannot write to {self.folder}: {error.strerror or error}") from error
        return self

    def __exit__(self, *exc: object) -> None:
        # A disk that has become read-only keeps both files, which then say nothing, and hides no other error.
        with suppress(OSError):
            self.owner.unlink(missing_ok=True)
            # Before it is released: whoever opened it meanwhile sees that it has gone, and makes a new one.
            Path(self._lock.lock_file).unlink(missing_ok=True)
        self._lock.release()

    def of_another_machine(self) -> bool:
        """Whether the last process that took the folder, and has not given it back, was on another machine.

        A machine that was lost may seem to hold the lock until the file system has missed it.
        """
        try:
            host: str = json.loads(self.owner.read_text(encoding="utf-8"))["host"]
            return host != socket.gethostname()
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _described(self) -> str:
        try:
            owner = json.loads(self.owner.read_text(encoding="utf-8"))
            return f"process {owner['pid']} on {owner['host']}, since {owner['since']},"
        except (OSError, ValueError, KeyError, TypeError):  # it has not got round to saying so
            return "another process"
