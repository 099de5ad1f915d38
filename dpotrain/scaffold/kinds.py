"""What a generated package can offer: a component of any kind, or a command."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from dpotrain.plugin.api import Component, DatasetFormatter
from dpotrain.plugin.api.kinds import CATALOGUES
from dpotrain.plugin.runtime import commands, plugin
from dpotrain.plugin.runtime.checks import AUTO
from dpotrain.plugin.runtime.manager import PluginManager


@dataclass(frozen=True, slots=True)
class ComponentKind:
    """A component, which a recipe selects."""

    component: type[Component]

    @property
    def name(self) -> str:
        """In words, ``model loader``; its template has the same name."""
        return self.component.kind

    @property
    def about(self) -> str:
        """What components of the kind do, in half a line: the first words of its documentation."""
        first = (self.component.__doc__ or "").splitlines()[0]
        return re.sub(r":\w+:|`", "", first).split("; ")[0].rstrip(".")

    @property
    def base(self) -> str:
        """The class that the component is derived from, ``ModelLoader``."""
        return self.component.__name__

    def clash(self, name: str, plugins: PluginManager) -> str | None:
        """Return a message that says what has this name already among components of the kind, or None."""
        if self.component is DatasetFormatter and name == AUTO:
            return f'data.format = "{AUTO}" means that all formatters are asked'
        owners = [
            owner.label
            for owner in plugins.plugins
            if any(issubclass(each, self.component) and each.name == name for each in owner.components)
        ]
        return f'{self.name} "{name}" is offered by {" and ".join(owners)} already' if owners else None

    def words(self, name: str, module: str) -> Mapping[str, str]:
        """Return the values of the template words that depend on the kind."""
        page = "its options and a table to paste into a recipe"
        return {"group": plugin.GROUP, "object": module, "page": page}

    def try_out(self, name: str) -> tuple[str, ...]:
        """Return shell commands that run it, to be given in the package's folder."""
        return ("dpotrain run recipe.toml",)


@dataclass(frozen=True, slots=True)
class CommandKind:
    """A command of the command line."""

    own: Collection[str]
    """The names of dpotrain's own commands."""
    name: ClassVar[str] = "command"
    about: ClassVar[str] = "Adds a command to dpotrain on the command line"
    base: ClassVar[str] = "Command"

    def clash(self, name: str, plugins: PluginManager) -> str | None:
        """See :meth:`ComponentKind.clash`."""
        if name in self.own:
            return f"dpotrain {name} is one of dpotrain's own commands"
        found = commands.plugin_commands(self.own).get(name)
        return None if found is None else f"{found.label} is installed already"

    def words(self, name: str, module: str) -> Mapping[str, str]:
        """See :meth:`ComponentKind.words`."""
        return {"group": f'"{commands.GROUP}"', "object": f"{module}:command", "page": "how it is called"}

    def try_out(self, name: str) -> tuple[str, ...]:
        """See :meth:`ComponentKind.try_out`."""
        return ("dpotrain run recipe.toml", f"dpotrain {name} runs/{name}")


Kind: TypeAlias = ComponentKind | CommandKind


def kinds(own_commands: Collection[str]) -> dict[str, Kind]:
    """Return every kind by its name on the command line: ``model-loader``."""
    found: list[Kind] = [*map(ComponentKind, CATALOGUES.values()), CommandKind(own_commands)]
    return {kind.name.replace(" ", "-"): kind for kind in found}
