"""Everything about one plugin: where it comes from, what it implements, the options of its components, its commands."""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dpotrain.core.errors import PluginError, RecipeError, did_you_mean
from dpotrain.plugin.api import Kind
from dpotrain.plugin.describe.listing import with_commands
from dpotrain.plugin.describe.options import Option, example_table, options_of
from dpotrain.plugin.runtime.commands import PluginCommand
from dpotrain.plugin.runtime.manager import PluginInfo, PluginManager
from dpotrain.plugin.runtime.plugin import Plugin

#: How often a recipe has the table of a kind that a plugin may declare.
_SELECTED = {"optional": "once at most", "listed": "as often as wanted"}
#: Width of a command's help in columns, whatever the terminal.
_WIDTH = 100


@dataclass(frozen=True, slots=True)
class ComponentPage:
    """One component, for people who write recipes."""

    kind: str
    name: str
    about: str
    """Its docstring."""
    options: tuple[Option, ...]
    example: str
    """TOML that selects it."""


@dataclass(frozen=True, slots=True)
class KindPage:
    """One kind of component that the plugin declares, for people who serve it or select its components."""

    kind: str
    about: str
    """The docstring of its class."""
    table: str
    """How a recipe begins the table: ``[[judges]]``."""
    selected: str
    """How often the table may be there."""
    hook: str
    """What a plugin implements to offer components of the kind."""
    component: str
    """The class that they derive from, with its module."""
    components: tuple[str, ...]
    """Those that installed plugins offer, each with its plugin."""


@dataclass(frozen=True, slots=True)
class CommandPage:
    """One command, for people who run it."""

    name: str
    help: str
    """Its ``--help``; empty for one that does not work."""


@dataclass(frozen=True, slots=True)
class PluginPage:
    """One plugin; plain data."""

    info: PluginInfo
    licence: str | None
    """From the metadata of its distribution."""
    hooks: tuple[str, ...]
    """The hooks that its module implements."""
    components: tuple[ComponentPage, ...]
    declared_kinds: tuple[KindPage, ...]
    commands: tuple[CommandPage, ...]
    """The reason why one does not work is in ``info``."""

    def as_json(self) -> dict[str, Any]:
        """Return one flat mapping."""
        page = asdict(self)
        return {**page.pop("info"), **page}


def pages(manager: PluginManager, commands: Mapping[str, PluginCommand], name: str) -> list[PluginPage]:
    """Return the plugins of a name: their own, their distribution's, or that of a component, kind or command of theirs.

    Raises RecipeError, with the nearest name, where there is none.
    """
    infos = with_commands(manager.infos(), commands.values())
    alone = (Plugin(info.name, info.distribution) for info in infos[len(manager.plugins) :])
    described = list(zip([*manager.plugins, *alone], infos, strict=True))
    found = [_page(plugin, info, manager, commands) for plugin, info in described if plugin.called(name)]
    found = found or [
        page
        for each in described
        if (page := _page(*each, manager, commands, only=name)).components
        or page.commands
        or page.declared_kinds
    ]
    if found:
        return found
    known = {info.name for info in infos} | {command for info in infos for command in info.commands}
    known |= {info.distribution for info in infos if info.distribution}
    known |= {component.name for plugin in manager.plugins for component in plugin.components}
    known |= {kind.component.kind for plugin in manager.plugins for kind in plugin.kinds}
    hint = did_you_mean(name, sorted(known)) or "; dpotrain plugins lists them"
    raise RecipeError(f'no plugin, distribution, component, kind or command is called "{name}"{hint}')


def _page(
    plugin: Plugin,
    info: PluginInfo,
    manager: PluginManager,
    commands: Mapping[str, PluginCommand],
    only: str | None = None,
) -> PluginPage:
    """Return everything about a plugin; with ``only``, of its components and commands those of that name."""
    return PluginPage(
        info=info,
        licence=None if plugin.distribution is None else licence_of(plugin.distribution),
        hooks=plugin.hooks,
        components=tuple(
            ComponentPage(
                kind=component.kind,
                name=component.name,
                about=inspect.cleandoc(component.__doc__ or ""),
                options=tuple(options_of(component.Options, manager)),
                example=example_table(component),
            )
            for component in plugin.components
            if only in (None, component.name)
        ),
        declared_kinds=tuple(
            _kind_page(kind, manager)
            for kind in plugin.kinds
            if only in (None, kind.component.kind, kind.table)
        ),
        commands=tuple(
            _command_page(commands[command]) for command in info.commands if only in (None, command)
        ),
    )


def _kind_page(kind: Kind, manager: PluginManager) -> KindPage:
    own = kind.component
    return KindPage(
        kind=own.kind,
        about=inspect.cleandoc(own.__doc__ or ""),
        table=kind.heading,
        selected=_SELECTED[kind.selected],
        hook=kind.catalogue,
        component=f"{own.__module__}.{own.__qualname__}",
        components=tuple(f"{each.name} ({manager.owner(each).name})" for each in manager.components(own)),
    )


def _command_page(command: PluginCommand) -> CommandPage:
    import click

    try:
        loaded = command.load()
    except PluginError:
        return CommandPage(command.name, help="")
    context = click.Context(loaded, info_name=f"dpotrain {command.name}", terminal_width=_WIDTH)
    return CommandPage(command.name, loaded.get_help(context))


def licence_of(distribution: str) -> str | None:
    """Return a distribution's licence from its metadata: an SPDX expression, a text's first line, or None."""
    metadata = importlib.metadata.metadata(distribution)
    for field in ("License-Expression", "License"):
        text = metadata[field].strip() if field in metadata else ""
        if text:
            return text.splitlines()[0]
    named = [
        line.rpartition(" :: ")[2] for line in metadata.get_all("Classifier") or () if "License ::" in line
    ]
    return ", ".join(named) or None
