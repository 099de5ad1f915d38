"""Verbs that plugins bring, found by entry points of their own: ``--help`` cannot import every plugin."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from dpotrain.core.errors import PluginError, describe_exception
from dpotrain.core.packages import name_and_version

if TYPE_CHECKING:
    import click

#: The entry points' group. A point's name is the verb, its value ``module:command``, a click command.
GROUP = "dpotrain.commands"


@dataclass(frozen=True, slots=True)
class PluginVerb:
    """One verb, not yet imported."""

    name: str
    points: tuple[EntryPoint, ...]
    """More than one where several distributions have a verb of this name."""
    taken: bool
    """Whether dpotrain itself has a verb of this name."""

    @property
    def label(self) -> str:
        """Name and distribution, for messages: ``the verb "merge" of dpotrain 0.1.0``."""
        return f'the verb "{self.name}" of {" and ".join(map(_origin, self.points))}'

    def load(self) -> click.Command:
        """Import the verb.

        Raises:
            PluginError: it has a name that is taken, it cannot be imported, or it is no click command.
        """
        import click

        if self.taken or len(self.points) > 1:
            raise PluginError(self._clash())
        (point,) = self.points
        try:
            command: Any = point.load()
        except (Exception, SystemExit) as error:
            raise PluginError(f"{self.label} cannot be imported: {describe_exception(error)}") from error
        if not isinstance(command, click.Command):
            raise PluginError(f"{self.label} is {point.value}, which is no click command")
        return command

    def help(self) -> str:
        """Return what ``--help`` says of it: its own line and where it is from, or what is wrong with it."""
        try:
            command = self.load()
        except PluginError as error:
            return " ".join(str(error).split())
        return f"{command.get_short_help_str(limit=120).removesuffix('.')} ({_origin(self.points[0])})."

    def _clash(self) -> str:
        owners = [*(["dpotrain itself"] if self.taken else []), *map(_origin, self.points)]
        return f'the verb "{self.name}" is offered by {" and by ".join(owners)}; ' + (
            "the former is the one that runs" if self.taken else "none of them runs until one is uninstalled"
        )


def plugin_verbs(own: Iterable[str]) -> dict[str, PluginVerb]:
    """Return the verbs of all installed plugins by name; ``own`` are those that dpotrain has itself."""
    points: dict[str, list[EntryPoint]] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, _origin(point))):
        points.setdefault(point.name, []).append(point)
    taken = set(own)
    return {name: PluginVerb(name, tuple(found), name in taken) for name, found in points.items()}


def _origin(point: EntryPoint) -> str:
    """Return distribution and version."""
    return point.value if point.dist is None else " ".join(name_and_version(point.dist))
