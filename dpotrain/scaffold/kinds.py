"""What a package may bring: a component of any kind, or a verb of the command line."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

from dpotrain.plugin.api import Component
from dpotrain.plugin.api.kinds import CATALOGUES
from dpotrain.plugin.runtime import commands as verbs
from dpotrain.plugin.runtime import plugin
from dpotrain.plugin.runtime.manager import PluginManager


class Kind(Protocol):
    """What of a package depends on what it brings."""

    @property
    def name(self) -> str:
        """In words, ``model loader``; its template has the same name."""

    @property
    def ending(self) -> str:
        """What its class is called after the plugin's own name, ``ModelLoader``."""

    def clash(self, name: str) -> str | None:
        """Return who has something of this kind and name already, or None."""

    def words(self, name: str, module: str) -> Mapping[str, str]:
        """Return what stands for what in the templates, besides what is the same for all kinds."""

    def commands(self, name: str) -> tuple[str, ...]:
        """Return the commands that show it at work, to be given in the package's folder."""


@dataclass(frozen=True, slots=True)
class ComponentKind:
    """A component, which a recipe picks."""

    component: type[Component]

    @property
    def name(self) -> str:
        """The kind's own name."""
        return self.component.kind

    @property
    def ending(self) -> str:
        """The name of the kind's class."""
        return self.component.__name__

    def clash(self, name: str) -> str | None:
        """Ask the catalogue."""
        plugins = PluginManager.from_entry_points()
        if name not in plugins.names(self.component):
            return None
        owner = plugins.owner(plugins.find(self.component, name)).label
        return f'{self.name} "{name}" is offered by {owner} already'

    def words(self, name: str, module: str) -> Mapping[str, str]:
        """Return where its entry point goes and what its page shows."""
        return {
            "group": plugin.GROUP,
            "object": module,
            "page": "its options and a table to paste into a recipe",
        }

    def commands(self, name: str) -> tuple[str, ...]:
        """Return the run of its recipe, which picks it."""
        return ("dpotrain run recipe.toml",)


@dataclass(frozen=True, slots=True)
class VerbKind:
    """A verb, which a person types."""

    own: Collection[str]
    """The verbs that dpotrain has itself."""
    name: ClassVar[str] = "verb"
    ending: ClassVar[str] = "Verb"

    def clash(self, name: str) -> str | None:
        """Ask dpotrain itself, and then the plugins."""
        if name in self.own:
            return f"dpotrain {name} is a verb of dpotrain itself"
        found = verbs.plugin_verbs(self.own).get(name)
        return None if found is None else f"{found.label} is there already"

    def words(self, name: str, module: str) -> Mapping[str, str]:
        """Return where its entry point goes and what its page shows."""
        return {
            "group": f'"{verbs.GROUP}"',
            "object": f"{module}:command",
            "page": "how it is called",
        }

    def commands(self, name: str) -> tuple[str, ...]:
        """Return a run of the recipe, and what is then done with it."""
        return ("dpotrain run recipe.toml", f"dpotrain {name} runs/{name}")


def kinds(own_verbs: Collection[str]) -> dict[str, Kind]:
    """Return every kind that there is, by its name on the command line: ``model-loader``."""
    found: list[Kind] = [*map(ComponentKind, CATALOGUES.values()), VerbKind(own_verbs)]
    return {kind.name.replace(" ", "-"): kind for kind in found}
