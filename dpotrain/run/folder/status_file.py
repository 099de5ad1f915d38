"""``status.json``: what a run does now, for whoever looks at its folder from elsewhere."""

from __future__ import annotations

import json
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from dpotrain.core.atomic import write_text
from dpotrain.core.controls import Controls
from dpotrain.core.errors import RunStopped
from dpotrain.core.launched_with import launch_options
from dpotrain.core.pace import Pace
from dpotrain.core.records import Outcome, Record, Status, StepRecord
from dpotrain.core.reporter import Advance, Reporter
from dpotrain.run.folder.requests import serve_requests

#: Seconds between two looks for changes and requests.
WRITE_SECONDS = 1.0
#: Seconds after which the file is written anew though nothing changed, so that one sees that the process lives.
HEARTBEAT_SECONDS = 10.0
#: A file of a running process that is older says that it was killed, or that its machine is gone.
SILENT_SECONDS = 120.0


class StatusFile(Reporter):
    """Writes the file from a thread, about once a second and when a phase begins or ends; and serves requests.

    A file that cannot be written ends no run: it is tried again a second later.
    """

    def __init__(
        self, path: Path, clock: Callable[[], float] = time.time, evaluate_every: int | None = None
    ) -> None:
        self._path = path
        self._clock = clock
        self._pace = Pace(evaluate_every)
        self._controls: Controls | None = None
        self._phases: list[dict[str, Any]] = []
        self._status: dict[str, Any] = {
            "state": "running",
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "launch": launch_options(os.environ),
            "title": "",
            "info": {},
            "began": clock(),
        }
        self._microbatch: tuple[int, int, int] | None = None
        self._step_began = math.nan
        self._epoch = 0.0
        self._changed = threading.Event()
        self._ends = False
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._write()
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Write for the last time; where the run could not say how it ended, what it raised says so."""
        if self._thread is None:
            return
        self._ends = True
        self._changed.set()
        self._thread.join(WRITE_SECONDS)
        self._thread = None
        if self._status["state"] == "running":
            self._status["state"] = _ended(exc[1])
        self._write()

    def started(self, title: str, info: dict[str, str], total_steps: int = 0) -> None:  # noqa: D102
        self._status["title"], self._status["info"] = title, info
        self._pace.total_steps = total_steps
        self._changed.set()

    @contextmanager
    def phase(self, name: str, total: int | None) -> Iterator[Advance]:  # noqa: D102
        began = self._clock()
        phase: dict[str, Any] = {"name": name, "total": total, "done": 0, "began": began}
        self._phases.append(phase)
        self._microbatch = None
        self._changed.set()

        def advance(count: int = 1) -> None:
            phase["done"] += count

        try:
            yield advance
        finally:
            self._phases.remove(phase)
            self._pace.pause(self._clock() - began)
            self._changed.set()

    def controls(self, controls: Controls) -> None:  # noqa: D102
        self._controls = controls

    def microbatch(self, step: int, done: int, total: int) -> None:  # noqa: D102
        if self._microbatch is None or self._microbatch[0] != step:
            self._step_began = self._clock()
            self._pace.step = step - 1
        self._microbatch = step, done, total

    def step(self, record: StepRecord) -> None:  # noqa: D102
        self._microbatch = None
        self._epoch = record.epoch
        self._pace.add(record)

    def logged(self, record: Record) -> None:  # noqa: D102
        if record.kind == "eval":
            self._pace.evaluated()

    def finished(self, outcome: Outcome) -> None:  # noqa: D102
        self._status["state"] = outcome.status
        self._pace.step = outcome.steps
        self._write()

    def as_json(self) -> dict[str, Any]:
        """Return the file's object. Times are seconds since 1970, spans seconds; what is not known is null."""
        pace, microbatch = self._pace, self._microbatch
        left = pace.seconds_left()
        return {
            **self._status,
            "updated": self._clock(),
            "phases": [dict(phase) for phase in list(self._phases)],
            "step": pace.step,
            "total_steps": pace.total_steps,
            "epoch": self._epoch,
            "microbatch": None if microbatch is None else list(microbatch),
            "step_began": None if microbatch is None else self._step_began,
            "step_seconds": None if math.isnan(pace.step_seconds) else pace.step_seconds,
            "seconds_left": None if math.isnan(left) else left,
            "takes_requests": self._controls is not None,
        }

    def _run(self) -> None:
        written = ""
        at = -math.inf
        while not self._ends:
            self._changed.wait(WRITE_SECONDS)
            self._changed.clear()
            if self._controls is not None:
                serve_requests(self._path.parent, self._controls)
            now = json.dumps({name: value for name, value in self.as_json().items() if name != "updated"})
            if now != written or self._clock() - at >= HEARTBEAT_SECONDS:
                self._write()
                written, at = now, self._clock()

    def _write(self) -> None:
        # It is not synced: after a power cut there is no process whose state it could be.
        with self._lock, suppress(OSError):
            write_text(self._path, json.dumps(self.as_json(), default=str) + "\n", sync=False)


def _ended(error: object) -> Status:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return "stopped" if isinstance(error, RunStopped) else "failed"
