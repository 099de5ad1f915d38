"""The recipe's loggers, each in a thread of its own; one that raises or hangs is dropped."""

from __future__ import annotations

import copy
import json
import math
import shlex
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from dpotrain.core import summary
from dpotrain.core.errors import describe_exception
from dpotrain.core.records import LoggedRun, Outcome, Record, Run, TextRecord
from dpotrain.core.reporter import Reporter
from dpotrain.plugin.api import Component, Logger
from dpotrain.plugin.runtime.logger_thread import Call, LoggerThread
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.plugin.runtime.storable import not_storable

#: Seconds of waiting for loggers at the end of a run after which a note says so.
_SILENCE = 2.0
#: Seconds between two checks of a logger whose state is waited for.
_LOOK = 0.05


@dataclass(slots=True, eq=False)
class _Kept:
    """A logger that has not been dropped."""

    logger: Logger
    thread: LoggerThread
    run: LoggedRun | None = None
    """Its copy of the run; made for its first call."""


class LoggerSet:
    """The recipe's loggers; one that raises, hangs or falls far behind is dropped with a message.

    Loggers run in threads of their own. They get copies, which neither the run nor another logger can change. Their
    notes and reports are passed on by :meth:`poll`, in the thread that calls it, so that the reporter, ``run.log`` and
    the summary are used by one thread only.
    """

    def __init__(
        self, loggers: Iterable[Logger], plugins: PluginManager, reporter: Reporter, patience: float
    ) -> None:
        """Take loggers that are not started yet; ``patience`` is in seconds."""
        self._kept = [_Kept(logger, LoggerThread(logger.name, type(logger).__module__)) for logger in loggers]
        self._plugins = plugins
        self._reporter = reporter
        self._patience = patience
        self._said: deque[Callable[[], object]] = deque()
        """Notes and reports of loggers that :meth:`poll` is to pass on."""
        self._folder: Path | None = None
        """The run's folder; None before :meth:`start`."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the loggers that have not been dropped, in the recipe's order."""
        return tuple(kept.logger.name for kept in self._kept)

    def __contains__(self, logger: object) -> bool:
        return any(kept.logger is logger for kept in self._kept)

    def start(self, run: Run) -> None:
        """Open every logger; on processes other than the main one, none."""
        if not run.is_main_process:
            self._kept.clear()
        self._folder = run.folder
        for kept in self._kept:
            kept.thread.put(Call("start", partial(kept.logger.start, self._seen(kept, run))))

    def log(self, record: Record) -> None:
        """Queue one record for every logger."""
        for kept in self._kept:
            kept.thread.put(Call(f"log of step {record.step}", partial(kept.logger.log, _copied(record))))
        self.poll()

    def log_text(self, record: TextRecord) -> None:
        """Queue a table of texts for every logger."""
        for kept in self._kept:
            what = f"log_text of {record.name} at step {record.step}"
            kept.thread.put(Call(what, partial(kept.logger.log_text, _copied(record))))
        self.poll()

    def call(
        self, logger: Logger, hook: str, listener: Callable[..., object], values: Mapping[str, Any]
    ) -> None:
        """Queue a run event for a logger: ``listener`` is called with copies of ``values``, by name."""
        for kept in self._kept:
            if kept.logger is logger:
                given = {
                    name: self._seen(kept, value) if name == "run" else _copied(value)
                    for name, value in values.items()
                }
                kept.thread.put(Call(hook, partial(listener, **given)))

    def state_of(self, logger: Logger) -> Mapping[str, Any]:
        """Return a logger's state after everything that was queued for it, which a resumed run does not queue again.

        A logger without state is not waited for. Empty where the logger is dropped, raises, or takes more than
        ``patience`` seconds.
        """
        self.poll()
        kept = next((kept for kept in self._kept if kept.logger is logger), None)
        if kept is None or type(logger).state_dict is Component.state_dict:
            return {}
        found: list[Mapping[str, Any]] = []
        done = threading.Event()

        def ask() -> None:
            try:
                state = logger.state_dict()
                if fault := not_storable(state):
                    raise TypeError(f"it returned {fault}")
                found.append(copy.deepcopy(state))
            finally:
                done.set()

        kept.thread.put(Call("state_dict", ask))
        deadline = time.monotonic() + self._patience
        # Where a call before it raises, this one is never made.
        while not done.wait(_LOOK) and not kept.thread.fault(self._patience):
            if time.monotonic() >= deadline:
                self._reporter.warn(
                    f"{self._plugins.label(logger)} is too far behind for its state to be saved"
                )
                break
        self.poll()
        return found[0] if found else {}

    def poll(self) -> None:
        """Pass on notes and reports of loggers, and drop loggers that raised or hang."""
        while self._said:
            self._said.popleft()()
        for kept in list(self._kept):
            fault = kept.thread.fault(self._patience)
            if fault:
                self._drop(kept, fault)

    def drop(self, logger: Logger, where: str, error: Exception) -> None:
        """Drop a logger because its plugin's module raised in ``where``."""
        for kept in list(self._kept):
            if kept.logger is logger:
                self._drop(kept, f"{where} raised {describe_exception(error, type(logger).__module__)}")

    def finish(self, outcome: Outcome, at_most: float = math.inf) -> None:
        """Close every logger and wait for them; nothing happens before :meth:`start`.

        Waits ``patience`` seconds for all of them together, or ``at_most`` seconds if that is less; then warns about
        calls that were not made.
        """
        if self._folder is None:
            return
        self.poll()
        try:
            for kept in self._kept:
                kept.thread.put(Call("finish", partial(kept.logger.finish, _copied(outcome))))
                kept.thread.close()
            limit = min(self._patience, at_most)
            late = self._wait(limit)
            self.poll()
            for kept in late:
                undone = kept.thread.undone()
                if kept.logger in self and undone:  # else it was dropped, or has just finished
                    rest = f" and {len(undone) - 1} calls more" if len(undone) > 1 else ""
                    self._drop(kept, f"{undone[0]}{rest} were not done {limit:g} s after the end of the run")
        finally:
            for kept in self._kept:
                kept.thread.abandon()
            self._kept.clear()

    def _wait(self, limit: float) -> list[_Kept]:
        """Wait for the threads to end, and return those that have not."""
        deadline = time.monotonic() + limit
        patient = time.monotonic() + min(limit, _SILENCE)
        late = [kept for kept in self._kept if not kept.thread.wait(patient - time.monotonic())]
        if late and limit > _SILENCE:
            names = ", ".join(f'"{kept.logger.name}"' for kept in late)
            self._reporter.note(f"waiting at most {limit:g} s for the logger {names} to finish")
        return [kept for kept in late if not kept.thread.wait(deadline - time.monotonic())]

    def _drop(self, kept: _Kept, fault: str) -> None:
        kept.thread.abandon()
        self._kept = [other for other in self._kept if other is not kept]
        name = kept.logger.name
        where = "RUN" if self._folder is None else shlex.quote(str(self._folder))
        self._reporter.warn(
            f"{self._plugins.label(kept.logger)} is dropped: {fault}\n"
            "the run continues without it, and its metrics file has every record; after the run, send them with:\n"
            f"dpotrain sync {where} --to {name}"
        )

    def _seen(self, kept: _Kept, run: Run) -> LoggedRun:
        if kept.run is None:
            facts = {field.name: getattr(run, field.name) for field in fields(LoggedRun)}
            say = self._said.append
            facts |= {
                "config": copy.deepcopy(run.config),
                "note": lambda text: say(partial(run.note, str(text))),
                "report": lambda section, values: say(
                    partial(run.report, section, copy.deepcopy(dict(values)))
                ),
            }
            kept.run = LoggedRun(**facts)
        return kept.run


def _copied(value: Any) -> Any:
    """Return a copy that the run cannot change."""
    if isinstance(value, Outcome):  # as summary.json has it, whatever plugins put into it
        plain = json.loads(json.dumps(summary.to_json(value), default=str))
        return summary.from_json(plain, value.folder)
    return copy.deepcopy(value)
