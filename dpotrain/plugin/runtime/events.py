"""Calls the run events of plugins, each listener isolated from the others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pluggy import HookImpl

from dpotrain.core.errors import PluginError
from dpotrain.core.records import CheckpointRecord, Outcome, Record, Run, StepRecord
from dpotrain.core.reporter import Reporter
from dpotrain.plugin.api import Logger, Selection
from dpotrain.plugin.api.hookspecs import EVENTS
from dpotrain.plugin.api.kinds import CORE_KINDS, Kinds, kind_of
from dpotrain.plugin.runtime.failures import failure
from dpotrain.plugin.runtime.hooks import implementations
from dpotrain.plugin.runtime.loggers import LoggerSet
from dpotrain.plugin.runtime.manager import PluginManager


@dataclass(frozen=True, slots=True)
class _Listener:
    """One implementation of one event."""

    label: str
    """Name and distribution, for messages."""
    implementation: HookImpl
    everywhere: bool = False
    """Whether it is called on every process, and not on the main one alone."""
    logger: Logger | None = None
    """The logger whose method it is, and in whose thread it runs."""
    only_for: tuple[Logger, ...] = ()
    """The loggers that are all the recipe selects of a plugin's module; they are dropped where the module raises."""


class RunEvents:
    """Calls the five run events on whatever the recipe selected.

    Listeners are the modules of active plugins (those that offer a selected component, or that ``requires``
    names), in the order of their distributions, and then the selected component objects in the recipe's
    order; ``@hookimpl(tryfirst=True)`` and ``trylast=True`` move one within that order. All are called in the thread
    that trains, but for a logger's methods: in the logger's own, after the records that came before. On processes other
    than the main one only components of kinds that shape the steps are called (see
    :attr:`dpotrain.plugin.api.kinds.Kind.on_every_process`), and nothing happens in ``loggers``.
    """

    def __init__(
        self, selection: Selection, plugins: PluginManager, reporter: Reporter, patience: float
    ) -> None:
        """``patience`` is the seconds that a logger may take for one call."""
        self.loggers = LoggerSet(selection.loggers, plugins, reporter, patience)
        self.on_main_alone = False
        """Whether a listener is being called that other processes do not call."""
        self._plugins = plugins
        self._warn = reporter.warn
        self._listeners = _listeners(selection, plugins)

    def run_started(self, run: Run) -> None:
        """``dpotrain_run_started``; also warns about installed plugins that failed and are not needed."""
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

    def subscribers(self, hook: str) -> list[str]:
        """Return the listeners of an event, in the order in which they are called."""
        return [listener.label for listener in self._listeners[hook]]

    def _call(self, hook: str, run: Run, **arguments: Any) -> None:
        """Call every listener; only then raise a PluginError for those that failed."""
        values = {"run": run, **arguments}
        here = []
        for listener in self._listeners[hook]:
            if not (run.is_main_process or listener.everywhere):
                continue
            if listener.logger is None:
                here.append(listener)
            else:
                self.loggers.call(
                    listener.logger, hook, listener.implementation.function, _wanted(listener, values)
                )
        if run.is_main_process:
            self.loggers.poll()
        if not here:
            return
        from dpotrain.core.random_state import RandomState

        # A listener that draws random numbers must not change what the run draws next: a resumed run has other
        # events and would take other steps.
        state = RandomState.capture()
        try:
            self._notify(here, hook, values)
        finally:
            state.restore()

    def _notify(self, listeners: list[_Listener], hook: str, values: dict[str, Any]) -> None:
        failures: list[tuple[_Listener, Exception]] = []
        for listener in listeners:
            if listener.only_for and not any(logger in self.loggers for logger in listener.only_for):
                continue
            self.on_main_alone = not listener.everywhere
            try:
                listener.implementation.function(**_wanted(listener, values))
                if not listener.everywhere:
                    values = _with_logged(values)
            except Exception as error:
                for logger in listener.only_for:
                    self.loggers.drop(logger, hook, error)
                if not listener.only_for:
                    failures.append((listener, error))
            finally:
                self.on_main_alone = False
        if failures:
            lines = [
                failure(one.label, hook, error, one.implementation.function.__module__)
                for one, error in failures
            ]
            raise PluginError("\n".join(lines)) from failures[0][1]


def _with_logged(values: dict[str, Any]) -> dict[str, Any]:
    """Return an evaluation's arguments with what listeners have logged so far among its metrics."""
    run, evaluation = values["run"], values.get("evaluation")
    if evaluation is None or not run.logged:
        return values
    return values | {"evaluation": replace(evaluation, metrics={**evaluation.metrics, **run.logged})}


def _wanted(listener: _Listener, values: dict[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in listener.implementation.argnames}


def _listeners(selection: Selection, plugins: PluginManager) -> dict[str, list[_Listener]]:
    """Return every event's listeners in the order in which they are called."""
    found: dict[str, list[_Listener]] = {event: [] for event in EVENTS}

    def listen(
        label: str,
        owner: object,
        logger: Logger | None = None,
        only_for: tuple[Logger, ...] = (),
        everywhere: bool = False,
        kinds: Kinds = CORE_KINDS,
    ) -> None:
        for hook, implementation in implementations(owner, label, kinds).items():
            if hook in found:
                found[hook].append(_Listener(label, implementation, everywhere, logger, only_for))

    for plugin in plugins.active(selection):
        selected = [part for part in selection.components if plugins.owner(type(part)) is plugin]
        loggers = tuple(part for part in selected if isinstance(part, Logger))
        # A module of which only loggers are selected is dropped with them; one of which more is selected is not.
        only_for = loggers if len(loggers) == len(selected) else ()
        listen(plugin.label, plugin.module, only_for=only_for, kinds=plugins.kinds)
    for part in selection.components:
        everywhere = kind_of(type(part)).on_every_process
        listen(plugins.label(part), part, part if isinstance(part, Logger) else None, everywhere=everywhere)
    for listeners in found.values():
        listeners.sort(key=lambda one: int(one.implementation.trylast) - int(one.implementation.tryfirst))
    return found
