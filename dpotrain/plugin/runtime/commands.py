"""Commands of the command line that plugins add, found by entry points of their own group.

``dpotrain --help`` lists them and cannot import every plugin for that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from dpotrain.core.errors import PluginError, describe_exception
from dpotrain.core.packages import name_and_version

if TYPE_CHECKING:
    import click

#: The entry points' group. A point's name is the command's, its value ``module:attribute`` of a click command.
GROUP = "dpotrain.commands"


@dataclass(frozen=True, slots=True)
class PluginCommand:
    """One command, not yet imported."""

    name: str
    points: tuple[EntryPoint, ...]
    """More than one where several distributions have a command of this name."""
    taken: bool
    """Whether dpotrain itself has a command of this name."""

    @property
    def label(self) -> str:
        """Name and distribution, for messages: ``the command "merge" of dpotrain 0.1.0``."""
        return f'the command "{self.name}" of {" and ".join(map(_origin, self.points))}'

    @property
    def module(self) -> str:
        """Name of the module that the first of them is imported from."""
        return self.points[0].value.partition(":")[0]

    def load(self) -> click.Command:
        """Import the click command.

        Raises:
            PluginError: the name is taken, the import fails, or the object is not a click command.
        """
        import click

        if self.taken or len(self.points) > 1:
            raise PluginError(self._clash())
        (point,) = self.points
        try:
            command: Any = point.load()
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"{self.label} cannot be imported: {describe_exception(error, self.module)}"
            ) from error
        if not isinstance(command, click.Command):
            raise PluginError(f"{self.label} is {point.value}, which is not a click command")
        return command

    def help(self) -> str:
        """Return its line in ``--help``: its short help and its distribution, or what is wrong with it."""
        try:
            command = self.load()
        except PluginError as error:
            return " ".join(str(error).split())
        return f"{command.get_short_help_str(limit=120).removesuffix('.')} ({_origin(self.points[0])})."

    def _clash(self) -> str:
        owners = [*(["dpotrain itself"] if self.taken else []), *map(_origin, self.points)]
        return f'the command "{self.name}" is offered by {" and by ".join(owners)}; ' + (
            "only the first is run" if self.taken else "none of them runs until one is uninstalled"
        )


def plugin_commands(own: Iterable[str]) -> dict[str, PluginCommand]:
    """Return the commands of all installed plugins by name; ``own`` are the names of dpotrain's own commands."""
    points: dict[str, list[EntryPoint]] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, _origin(point))):
        points.setdefault(point.name, []).append(point)
    taken = set(own)
    return {name: PluginCommand(name, tuple(found), name in taken) for name, found in points.items()}


def _origin(point: EntryPoint) -> str:
    """Return distribution and version."""
    return point.value if point.dist is None else " ".join(name_and_version(point.dist))
