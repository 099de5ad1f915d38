"""The recipe's loggers, each in a thread of its own, and what becomes of one that raises or hangs."""

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
from typing import TYPE_CHECKING, Any

from dpotrain.core.errors import describe_exception
from dpotrain.plugin.api import Component, Logger
from dpotrain.plugin.runtime.logger_thread import Call, LoggerThread
from dpotrain.plugin.runtime.storable import not_storable

if TYPE_CHECKING:
    from pathlib import Path

    from dpotrain.core.records import LoggedRun, Outcome, Record, Run
    from dpotrain.core.reporter import Reporter
    from dpotrain.plugin.runtime.manager import PluginManager

#: Seconds of waiting for loggers at the end of a run after which a person is told what the run waits for.
_SILENCE = 2.0
#: Seconds between two looks at a logger whose state is waited for.
_LOOK = 0.05


@dataclass(slots=True, eq=False)
class _Kept:
    """A logger that has not been dropped."""

    logger: Logger
    thread: LoggerThread
    run: LoggedRun | None = None
    """What it sees of the run; made when it is first told of it."""


class LoggerSet:
    """The recipe's loggers; one that raises, hangs or falls far behind is dropped with a message.

    Loggers work in threads of their own. Whatever is put for them is a copy, so that neither the run nor another
    logger can change it meanwhile. What they say and report on the way is passed on by :meth:`heed`, in the thread
    that calls it: the reporter, ``run.log`` and the summary never see two threads at once.
    """

    def __init__(
        self, loggers: Iterable[Logger], plugins: PluginManager, reporter: Reporter, patience: float
    ) -> None:
        """Take loggers that are not started yet; ``patience`` is in seconds."""
        self._kept = [_Kept(logger, LoggerThread(logger.name)) for logger in loggers]
        self._plugins = plugins
        self._reporter = reporter
        self._patience = patience
        self._said: deque[Callable[[], object]] = deque()
        """What loggers asked for in their threads and is still to be done in the run's."""
        self._folder: Path | None = None
        """The run's folder, once it is known: the run has begun."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the loggers that have not been dropped, in the recipe's order."""
        return tuple(kept.logger.name for kept in self._kept)

    def __contains__(self, logger: object) -> bool:
        return any(kept.logger is logger for kept in self._kept)

    def start(self, run: Run) -> None:
        """Open every logger. On other processes than the main one no logger is ever opened."""
        if not run.is_main_process:
            self._kept.clear()
        self._folder = run.folder
        for kept in self._kept:
            kept.thread.put(Call("start", partial(kept.logger.start, self._seen(kept, run))))

    def log(self, record: Record) -> None:
        """Hand one record to every logger."""
        for kept in self._kept:
            kept.thread.put(Call(f"log of step {record.step}", partial(kept.logger.log, _copied(record))))
        self.heed()

    def hear(
        self, logger: Logger, hook: str, listener: Callable[..., object], values: Mapping[str, Any]
    ) -> None:
        """Let a logger hear a run event: ``listener`` is called with copies of ``values``, by name."""
        for kept in self._kept:
            if kept.logger is logger:
                given = {
                    name: self._seen(kept, value) if name == "run" else _copied(value)
                    for name, value in values.items()
                }
                kept.thread.put(Call(hook, partial(listener, **given)))

    def state_of(self, logger: Logger) -> Mapping[str, Any]:
        """Return a logger's state after everything that was put for it: a resumed run puts none of that again.

        One without state is not waited for. Empty where the logger is dropped, raises, or does not get so far within
        ``patience`` seconds.
        """
        self.heed()
        kept = next((kept for kept in self._kept if kept.logger is logger), None)
        if kept is None or type(logger).state_dict is Component.state_dict:
            return {}
        found: list[Mapping[str, Any]] = []
        done = threading.Event()

        def ask() -> None:
            try:
                state = logger.state_dict()
                if fault := not_storable(state):
                    raise TypeError(f"it returned {fault.rstrip(',')}")
                found.append(copy.deepcopy(state))
            finally:
                done.set()

        kept.thread.put(Call("state_dict", ask))
        deadline = time.monotonic() + self._patience
        # A call before it that raises leaves this one undone, and is not waited for.
        while not done.wait(_LOOK) and not kept.thread.fault(self._patience):
            if time.monotonic() >= deadline:
                self._reporter.warn(
                    f"{self._plugins.label(logger)} is too far behind for its state to be saved"
                )
                break
        self.heed()
        return found[0] if found else {}

    def heed(self) -> None:
        """Pass on what loggers said, and drop those of which nothing more is to be expected."""
        while self._said:
            self._said.popleft()()
        for kept in list(self._kept):
            fault = kept.thread.fault(self._patience)
            if fault:
                self._drop(kept, fault)

    def drop(self, logger: Logger, where: str, error: Exception) -> None:
        """Take a logger out because a module that is there for it raised in ``where``."""
        for kept in list(self._kept):
            if kept.logger is logger:
                self._drop(kept, f"{where} raised {describe_exception(error)}")

    def finish(self, outcome: Outcome, at_most: float = math.inf) -> None:
        """Close every logger, once, and wait for them; nothing is closed where :meth:`start` was never reached.

        Waits ``patience`` seconds for all of them together, or ``at_most`` seconds if that is less; then says what was
        not delivered.
        """
        if self._folder is None:
            return
        self.heed()
        try:
            for kept in self._kept:
                kept.thread.put(Call("finish", partial(kept.logger.finish, _copied(outcome))))
                kept.thread.close()
            limit = min(self._patience, at_most)
            late = self._wait(limit)
            self.heed()
            for kept in late:
                undone = kept.thread.undone()
                if kept.logger in self and undone:  # else it has been dropped by now, or was just in time
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
            self._reporter.note(f"waiting {limit:g} s at most for the logger {names} to finish")
        return [kept for kept in late if not kept.thread.wait(deadline - time.monotonic())]

    def _drop(self, kept: _Kept, fault: str) -> None:
        kept.thread.abandon()
        self._kept = [other for other in self._kept if other is not kept]
        name = kept.logger.name
        where = "RUN" if self._folder is None else shlex.quote(str(self._folder))
        self._reporter.warn(
            f"{self._plugins.label(kept.logger)} is dropped: {fault}\n"
            "the run does without it, and its metrics file holds every record; to replay them when it is over:\n"
            f"dpotrain sync {where} --to {name}"
        )

    def _seen(self, kept: _Kept, run: Run) -> LoggedRun:
        if kept.run is None:
            from dpotrain.core.records import LoggedRun

            facts = {field.name: getattr(run, field.name) for field in fields(LoggedRun)}
            said = self._said
            kept.run = LoggedRun(
                **facts
                | {
                    "config": copy.deepcopy(run.config),
                    "note": lambda text: said.append(partial(run.note, str(text))),
                    "report": lambda section, values: said.append(
                        partial(run.report, section, copy.deepcopy(dict(values)))
                    ),
                }
            )
        return kept.run


def _copied(value: Any) -> Any:
    """Return a copy that nothing the run goes on to do can change."""
    from dpotrain.core import summary
    from dpotrain.core.records import Outcome

    if isinstance(value, Outcome):  # as summary.json has it, whatever plugins put into it
        plain = json.loads(json.dumps(summary.to_json(value), default=str))
        return summary.from_json(plain, value.folder)
    return copy.deepcopy(value)
