"""Everything about one plugin: where it comes from, what it implements, the options of its components, its verbs."""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from dpotrain.core.errors import PluginError, RecipeError, did_you_mean
from dpotrain.plugin.describe.listing import with_verbs
from dpotrain.plugin.describe.options import Option, example_table, options_of
from dpotrain.plugin.runtime.plugin import Plugin

if TYPE_CHECKING:
    from dpotrain.plugin.runtime.commands import PluginVerb
    from dpotrain.plugin.runtime.manager import PluginInfo, PluginManager

#: Columns of a verb's help, which does not depend on the terminal that a page is made for.
_WIDTH = 100


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
class VerbPage:
    """One verb, as a person who types it wants to know it."""

    name: str
    help: str
    """What ``--help`` says of it; empty for one that does not work."""


@dataclass(frozen=True, slots=True)
class PluginPage:
    """One plugin; plain data."""

    info: PluginInfo
    licence: str | None
    """As its distribution's metadata has it."""
    hooks: tuple[str, ...]
    """The hooks that its module implements."""
    components: tuple[ComponentPage, ...]
    verbs: tuple[VerbPage, ...]
    """What is wrong with one that does not work, ``info`` says."""

    def as_json(self) -> dict[str, Any]:
        """Return one flat mapping."""
        page = asdict(self)
        return {**page.pop("info"), **page}


def pages(manager: PluginManager, verbs: Mapping[str, PluginVerb], name: str) -> list[PluginPage]:
    """Return the plugins that a name means: theirs, their distribution's, or that of a component or verb of theirs.

    Raises RecipeError, with the nearest name, where it means none.
    """
    infos = with_verbs(manager.infos(), verbs.values())
    alone = (Plugin(info.name, info.distribution) for info in infos[len(manager.plugins) :])
    described = list(zip([*manager.plugins, *alone], infos, strict=True))
    found = [_page(plugin, info, verbs) for plugin, info in described if plugin.called(name)]
    found = found or [
        page for each in described if (page := _page(*each, verbs, only=name)).components or page.verbs
    ]
    if found:
        return found
    known = {info.name for info in infos} | {verb for info in infos for verb in info.verbs}
    known |= {info.distribution for info in infos if info.distribution}
    known |= {component.name for plugin in manager.plugins for component in plugin.components}
    hint = did_you_mean(name, sorted(known)) or "; dpotrain plugins lists them"
    raise RecipeError(f'no plugin, distribution, component or verb is called "{name}"{hint}')


def _page(
    plugin: Plugin, info: PluginInfo, verbs: Mapping[str, PluginVerb], only: str | None = None
) -> PluginPage:
    """Return everything about a plugin, or of what it offers ``only`` that of one name."""
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
            for component in plugin.components
            if only in (None, component.name)
        ),
        verbs=tuple(_verb_page(verbs[verb]) for verb in info.verbs if only in (None, verb)),
    )


def _verb_page(verb: PluginVerb) -> VerbPage:
    import click

    try:
        command = verb.load()
    except PluginError:
        return VerbPage(verb.name, help="")
    context = click.Context(command, info_name=f"dpotrain {verb.name}", terminal_width=_WIDTH)
    return VerbPage(verb.name, command.get_help(context))


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
