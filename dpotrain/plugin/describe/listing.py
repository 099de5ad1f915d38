"""Plugins and commands together, as ``dpotrain plugins`` shows them: the one is picked by recipes, the other is typed.

A command is shown with its distribution's plugin of the same name, or with its only one, and in a line of its own where
there is neither. To say what is wrong with it, it is imported, as the plugins are for the same list.
"""

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
    """Return the plugins, each with its command, and after them those commands that are no plugin's.

    What is wrong with a command is a note on a plugin, which works without it, and the reason of a line of its own.
    """
    told = list(infos)
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
                told.append(alone)
            else:
                more = [*told[at].notes, *filter(None, [fault]), *notes]
                told[at] = replace(told[at], commands=[*told[at].commands, command.name], notes=more)
    return told


def _place(command: PluginInfo, infos: Sequence[PluginInfo]) -> int | None:
    """Return where the plugin is that a command belongs to."""
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
