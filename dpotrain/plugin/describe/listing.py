"""Plugins and commands together, as ``dpotrain plugins`` lists them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint

from dpotrain.core.errors import PluginError
from dpotrain.core.packages import name_and_version
from dpotrain.plugin.runtime.commands import PluginCommand
from dpotrain.plugin.runtime.manager import PluginInfo
from dpotrain.plugin.runtime.plugin import file_of, noting_imports


def with_commands(infos: Sequence[PluginInfo], commands: Iterable[PluginCommand]) -> list[PluginInfo]:
    """Return the plugins, each with its commands, and after them the commands without a plugin.

    A command belongs to its distribution's plugin of the same name, or to its only one. It is imported, as plugins are,
    to see whether it works; a fault is a note on the plugin, which works without it, or the reason on its own line.
    """
    listed = list(infos)
    for command in commands:
        notes: list[str] = []
        try:
            with noting_imports(notes):
                command.load()
            fault = ""
        except PluginError as error:
            fault = str(error)
        for point in command.points:
            alone = _alone(point, fault, notes)
            at = _place(alone, infos)
            if at is None:
                listed.append(alone)
            else:
                more = [*listed[at].notes, *filter(None, [fault]), *notes]
                listed[at] = replace(listed[at], commands=[*listed[at].commands, command.name], notes=more)
    return listed


def _place(command: PluginInfo, infos: Sequence[PluginInfo]) -> int | None:
    """Return the index of the plugin that a command belongs to."""
    beside = [at for at, info in enumerate(infos) if info.distribution == command.distribution is not None]
    named = (at for at in beside if infos[at].name == command.name)
    return next(named, beside[0] if len(beside) == 1 else None)


def _alone(point: EntryPoint, fault: str, notes: Sequence[str]) -> PluginInfo:
    distribution, version = (None, None) if point.dist is None else name_and_version(point.dist)
    return PluginInfo(
        name=point.name,
        offers={},
        events=[],
        distribution=distribution,
        version=version,
        file=file_of(point.module),
        status="failed" if fault else "unused",
        reason=fault,
        notes=list(notes),
        commands=[point.name],
    )
