"""Following a run from its folder: what is new in its files since the last look."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpotrain.core import summary
from dpotrain.core.errors import RecipeError
from dpotrain.core.records import CheckpointRecord, Outcome, Record, SamplesRecord
from dpotrain.run.checkpoint import files
from dpotrain.run.folder.metrics_file import read_record
from dpotrain.run.folder.run_folder import RunFolder, no_run_folder
from dpotrain.run.folder.status_file import SILENT_SECONDS
from dpotrain.run.folder.text_files import samples_of

#: How a line of run.log begins, and the warnings among them.
_LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ (?P<level>[A-Z]+) (?P<name>[\w.]+): (?P<text>.*)")


@dataclass(frozen=True, slots=True)
class Status:
    """What ``status.json`` says, with defaults for what it does not."""

    values: Mapping[str, Any]

    @property
    def state(self) -> str:
        """``running``, or how the run ended."""
        return str(self.values.get("state", ""))

    def number(self, name: str, default: float = 0.0) -> float:
        """Return a number of the file; ``default`` where there is none."""
        value = self.values.get(name)
        return value if isinstance(value, int | float) and abs(value) < 2**63 else default

    def process(self) -> str:
        """Return which process it is, for a message."""
        return f"process {self.values.get('pid')} on {self.values.get('host')}"

    def is_gone(self, now: float) -> bool:
        """Whether the process that said it was running does so no more: it was killed, or its machine is gone."""
        if self.state != "running":
            return False
        pid = self.values.get("pid")
        if self.values.get("host") == socket.gethostname() and isinstance(pid, int):
            return not _lives(pid)
        return now - self.number("updated") > SILENT_SECONDS


@dataclass(slots=True)
class News:
    """What is new since the last look."""

    restarted: bool = False
    """Whether the run was resumed and dropped some of its records: what was seen before is seen again."""
    records: list[Record] = field(default_factory=list)
    samples: list[SamplesRecord] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    checkpoint: CheckpointRecord | None = None
    """The newest one, where it is new."""
    status: Status = field(default_factory=lambda: Status({}))
    """As it is now; empty without the file."""


class Follower:
    """Reads a run folder again and again; it changes nothing there."""

    def __init__(self, run: Path) -> None:
        """Begin at the start of the run's files.

        Raises:
            RecipeError: there is no run in ``run``.
        """
        self.folder = RunFolder(run)
        if not any(path.exists() for path in (self.folder.status, self.folder.metrics, self.folder.recipe)):
            if not run.exists():
                raise RecipeError(
                    f"there is no run in {run} yet.\nA run makes the folder that its recipe names, run.output_dir."
                )
            raise no_run_folder(run, "status.json")
        self.checkpoint_step: int | None = None
        """The newest checkpoint's, at the last look."""
        self._begin()

    def look(self) -> News:
        """Return what is new. A file that is not there, or cannot be read now, has nothing new."""
        news = News(status=Status(_object(self.folder.status)))
        if self._metrics.was_replaced():
            news.restarted = True
            self._begin()
        for line in self._metrics.lines():
            with suppress(ValueError):
                news.records.append(read_record(line))
        news.samples = [record for line in self._samples.lines() if (record := _samples(line)) is not None]
        news.warnings = list(self._new_warnings())
        newest = self._newest_checkpoint()
        if newest is not None and newest.step != self.checkpoint_step:
            news.checkpoint, self.checkpoint_step = newest, newest.step
        return news

    def outcome(self) -> Outcome | None:
        """Return how the run ended, by its summary; None without one."""
        try:
            return summary.from_json(_object(self.folder.summary), self.folder.path)
        except (ValueError, TypeError):
            return None

    def _begin(self) -> None:
        self._metrics = _Growing(self.folder.metrics)
        self._samples = _Growing(self.folder.samples)
        self._log = _Growing(self.folder.log)
        self.checkpoint_step = None

    def _newest_checkpoint(self) -> CheckpointRecord | None:
        with suppress(OSError):
            for path in reversed(files.complete(self.folder.checkpoints)):
                return CheckpointRecord(files.step_of(path), path)
        return None

    def _new_warnings(self) -> Iterator[str]:
        warning: list[str] | None = None
        for line in self._log.lines():
            text = line.decode(errors="replace").rstrip("\n")
            found = _LOG_LINE.fullmatch(text)
            if found is None:
                if warning is not None:
                    warning.append(text)
                continue
            if warning is not None:
                yield "\n".join(warning)
            is_warning = found["level"] == "WARNING" and found["name"] == "dpotrain"
            warning = [found["text"]] if is_warning else None
        if warning is not None:
            yield "\n".join(warning)


class _Growing:
    """A file that grows by lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self._inode = 0

    def lines(self) -> Iterator[bytes]:
        """Yield the whole lines that are new."""
        with suppress(OSError), self._path.open("rb") as file:
            self._inode = os.fstat(file.fileno()).st_ino
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                yield line

    def was_replaced(self) -> bool:
        """Whether another file is there than the one that was read, or one that is shorter."""
        try:
            now = self._path.stat()
        except OSError:
            return False
        return self._read > 0 and (now.st_ino != self._inode or now.st_size < self._read)


def _samples(line: bytes) -> SamplesRecord | None:
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        return samples_of(json.loads(line))
    return None


def _object(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
