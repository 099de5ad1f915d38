"""Run events and loggers, each listener isolated from the others.

The run package makes one :class:`RunEvents` a run and calls its methods, one for each event of
:mod:`dpotrain.plugin.hookspecs`; ``events.loggers`` drives the ``[[loggers]]``. Both do nothing on processes
other than the main one, so the caller need not ask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pluggy import HookImpl

from dpotrain.errors import PluginError
from dpotrain.plugin.components import Logger
from dpotrain.plugin.describe import describe_exception
from dpotrain.plugin.hooks import EVENTS, implementations

if TYPE_CHECKING:
    from dpotrain.plugin.manager import PluginManager
    from dpotrain.recipe.recipe import Recipe
    from dpotrain.run.records import CheckpointRecord, Outcome, Record, Run, StepRecord
    from dpotrain.run.reporter import Reporter


class LoggerSet:
    """The recipe's loggers; one that raises is dropped with a message and the run goes on."""

    def __init__(
        self, loggers: Iterable[Logger], plugins: PluginManager, warn: Callable[[str], None]
    ) -> None:
        self._kept = list(loggers)
        self._plugins = plugins
        self._warn = warn
        self._started = False

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the loggers that have not been dropped, in the recipe's order."""
        return tuple(logger.name for logger in self._kept)

    def __contains__(self, logger: object) -> bool:
        return any(kept is logger for kept in self._kept)

    def start(self, run: Run) -> None:
        """Open every logger. On other processes than the main one no logger is ever opened."""
        if not run.is_main_process:
            self._kept.clear()
        self._started = True
        self._each("start", run)

    def log(self, record: Record) -> None:
        """Hand one record to every logger."""
        self._each("log", record)

    def finish(self, outcome: Outcome) -> None:
        """Close every logger, once; nothing is closed where :meth:`start` was never reached."""
        if self._started:
            self._each("finish", outcome)
            self._kept.clear()

    def drop(self, logger: Logger, where: str, error: Exception) -> None:
        """Take a logger out and say why; ``where`` is the method or hook that raised."""
        self._kept = [kept for kept in self._kept if kept is not logger]
        self._warn(
            f'logger "{logger.name}" of {self._plugins.owner(type(logger)).label} is dropped: {where} raised '
            f"{describe_exception(error)}\nthe run goes on and its metrics file stays whole"
        )

    def _each(self, method: str, argument: Any) -> None:
        for logger in list(self._kept):
            try:
                getattr(logger, method)(argument)
            except Exception as error:  # whatever it is, a logger never takes the run down
                self.drop(logger, method, error)


@dataclass(frozen=True, slots=True)
class _Listener:
    """One implementation of one event."""

    label: str
    """Who it is, for messages."""
    implementation: HookImpl
    loggers: tuple[Logger, ...]
    """The loggers that it is there for; empty for a listener whose failure ends the run."""


class RunEvents:
    """Calls the five run events on whatever the recipe selected.

    Listeners are the modules of active plugins (those that offer a selected component, or that ``requires``
    names), in the order of their distributions, and then the selected component objects in the recipe's
    order; ``@hookimpl(tryfirst=True)`` and ``trylast=True`` move one within that order.
    """

    def __init__(self, recipe: Recipe, reporter: Reporter) -> None:
        self.loggers = LoggerSet(recipe.loggers, recipe.plugins, reporter.warn)
        self._plugins = recipe.plugins
        self._warn = reporter.warn
        self._listeners = _listeners(recipe)

    def run_started(self, run: Run) -> None:
        """``dpotrain_run_started``; also warns of installed plugins that failed and were not needed."""
        if run.is_main_process:
            for warning in self._plugins.warnings:
                self._warn(warning)
        self._call("dpotrain_run_started", run)

    def step_ended(self, run: Run, step: StepRecord) -> None:
        """``dpotrain_step_ended``, after every optimizer update."""
        self._call("dpotrain_step_ended", run, step=step)

    def evaluated(self, run: Run, evaluation: Record) -> None:
        """``dpotrain_evaluated``, after every evaluation."""
        self._call("dpotrain_evaluated", run, evaluation=evaluation)

    def checkpoint_saved(self, run: Run, checkpoint: CheckpointRecord) -> None:
        """``dpotrain_checkpoint_saved``, once a checkpoint is complete on disk."""
        self._call("dpotrain_checkpoint_saved", run, checkpoint=checkpoint)

    def run_finished(self, run: Run, outcome: Outcome) -> None:
        """``dpotrain_run_finished``, however the run ended."""
        self._call("dpotrain_run_finished", run, outcome=outcome)

    def heard_by(self, hook: str) -> list[str]:
        """Return who hears an event, in the order in which they do."""
        return [listener.label for listener in self._listeners[hook]]

    def _call(self, hook: str, run: Run, **arguments: Any) -> None:
        """Let every listener hear the event; only then raise a PluginError for those that failed."""
        if not run.is_main_process:
            return
        if not self._listeners[hook]:
            return
        from dpotrain.engine.random_state import RandomState

        # A listener that draws random numbers must not change what the run draws next, or a resumed run, which
        # hears other events, would take other steps.
        state = RandomState.capture()
        try:
            self._notify(hook, {"run": run, **arguments})
        finally:
            state.restore()

    def _notify(self, hook: str, values: dict[str, Any]) -> None:
        failures: list[tuple[str, Exception]] = []
        for listener in self._listeners[hook]:
            if listener.loggers and not any(logger in self.loggers for logger in listener.loggers):
                continue
            implementation = listener.implementation
            try:
                implementation.function(**{name: values[name] for name in implementation.argnames})
            except Exception as error:
                for logger in listener.loggers:
                    self.loggers.drop(logger, hook, error)
                if not listener.loggers:
                    failures.append((listener.label, error))
        if failures:
            lines = [f"{label} raised in {hook}: {describe_exception(error)}" for label, error in failures]
            raise PluginError("\n".join(lines)) from failures[0][1]


def _listeners(recipe: Recipe) -> dict[str, list[_Listener]]:
    """Return every event's listeners in the order in which they are called."""
    plugins = recipe.plugins
    found: dict[str, list[_Listener]] = {event: [] for event in EVENTS}

    def listen(label: str, owner: object, loggers: tuple[Logger, ...]) -> None:
        for hook, implementation in implementations(owner, label).items():
            if hook in found:
                found[hook].append(_Listener(label, implementation, loggers))

    for plugin in plugins.active(recipe):
        selected = [part for part in recipe.components if plugins.owner(type(part)) is plugin]
        loggers = tuple(part for part in selected if isinstance(part, Logger))
        # A module that is here for its loggers alone is dropped with them; one that is here for more is not.
        listen(plugin.label, plugin.module, loggers if len(loggers) == len(selected) else ())
    for part in recipe.components:
        label = f'{part.kind} "{part.name}" of {plugins.owner(type(part)).label}'
        listen(label, part, (part,) if isinstance(part, Logger) else ())
    for listeners in found.values():
        listeners.sort(key=lambda listener: _rank(listener.implementation))
    return found


def _rank(implementation: HookImpl) -> int:
    return int(implementation.trylast) - int(implementation.tryfirst)
