"""Everything about one plugin: where it comes from, what it implements, and the options of its components."""

from __future__ import annotations

import difflib
import importlib.metadata
import inspect
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from dpotrain.errors import RecipeError
from dpotrain.recipe.options import Option, example_table, options_of

if TYPE_CHECKING:
    from dpotrain.plugin.components import Component
    from dpotrain.plugin.manager import PluginInfo, PluginManager
    from dpotrain.plugin.plugin import Plugin


@dataclass(frozen=True, slots=True)
class ComponentPage:
    """One component, as a person who writes a recipe wants to know it."""

    kind: str
    name: str
    about: str
    """Its docstring."""
    options: tuple[Option, ...]
    example: str
    """TOML that selects it."""


@dataclass(frozen=True, slots=True)
class PluginPage:
    """One plugin; plain data."""

    info: PluginInfo
    licence: str | None
    """As its distribution's metadata has it."""
    hooks: tuple[str, ...]
    """The hooks that its module implements."""
    components: tuple[ComponentPage, ...]

    def as_json(self) -> dict[str, Any]:
        """Return one flat mapping."""
        page = asdict(self)
        return {**page.pop("info"), **page}


def pages(manager: PluginManager, name: str) -> list[PluginPage]:
    """Return the plugins that a name means: theirs, their distribution's, or that of one of their components.

    Raises RecipeError, with the nearest name, where it means none.
    """
    described = list(zip(manager.plugins, manager.infos(), strict=True))
    found = [_page(plugin, info, plugin.components) for plugin, info in described if plugin.called(name)]
    if found:
        return found
    offering = [
        (plugin, info, tuple(component for component in plugin.components if component.name == name))
        for plugin, info in described
    ]
    shown = [_page(plugin, info, components) for plugin, info, components in offering if components]
    if shown:
        return shown
    known = {plugin.name for plugin in manager.plugins}
    known |= {plugin.distribution for plugin in manager.plugins if plugin.distribution}
    known |= {component.name for plugin in manager.plugins for component in plugin.components}
    near = difflib.get_close_matches(name, sorted(known), n=1)
    hint = f'did you mean "{near[0]}"?' if near else "dpotrain plugins shows what there is"
    raise RecipeError(f'no plugin, distribution or component is called "{name}"; {hint}')


def _page(plugin: Plugin, info: PluginInfo, components: tuple[type[Component], ...]) -> PluginPage:
    return PluginPage(
        info=info,
        licence=None if plugin.distribution is None else licence_of(plugin.distribution),
        hooks=plugin.hooks,
        components=tuple(
            ComponentPage(
                kind=component.kind,
                name=component.name,
                about=inspect.cleandoc(component.__doc__ or ""),
                options=tuple(options_of(component.Options)),
                example=example_table(component),
            )
            for component in components
        ),
    )


def licence_of(distribution: str) -> str | None:
    """Return what a distribution's metadata says of its licence: an SPDX expression, a text's first line, or None."""
    metadata = importlib.metadata.metadata(distribution)
    for field in ("License-Expression", "License"):
        text = metadata[field].strip() if field in metadata else ""
        if text:
            return text.splitlines()[0]
    named = [
        line.rpartition(" :: ")[2] for line in metadata.get_all("Classifier") or () if "License ::" in line
    ]
    return ", ".join(named) or None
