"""Completion of ``--set KEY=VALUE`` and of plugins' names: what the tables of recipes have. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from dpotrain.plugin.api import Component

#: Key of a context's ``meta``: the words of the command line.
WORDS = "dpotrain.words"


def complete_set(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the keys that begin so, of the core and of the components that the recipe selects, or a key's values."""
    key, equals, begun = incomplete.partition("=")
    # click parses nothing in front of an option without a value, so the recipe is looked for in the words.
    recipe = next((word for word in ctx.meta.get(WORDS, ()) if word.endswith(".toml")), None)
    keys = dict(_keys(recipe))
    if equals:
        values = [value for value in keys.get(key, ("", ()))[1] if value.startswith(begun)]
        return [CompletionItem(f"{key}={value}") for value in values]
    return [
        CompletionItem(f"{name}=", help=about) for name, (about, _) in keys.items() if name.startswith(key)
    ]


def complete_plugin(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the names of plugins, components, kinds that they declare, and commands that begin so."""
    from dpotrain.cli import COMMANDS
    from dpotrain.plugin.runtime.commands import plugin_commands
    from dpotrain.plugin.runtime.manager import PluginManager

    plugins = PluginManager.from_entry_points()
    names = {plugin.name for plugin in plugins.plugins} | plugin_commands(COMMANDS).keys()
    names |= {name for kind in plugins.kinds for name in plugins.names(kind.component)}
    names |= {kind.component.kind for plugin in plugins.plugins for kind in plugin.kinds}
    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]


def _keys(recipe: str | None) -> Iterator[tuple[str, tuple[str, tuple[str, ...]]]]:
    """Yield dotted keys, each with a description and values."""
    from dpotrain.plugin.runtime.manager import PluginManager
    from dpotrain.recipe.sections.catalogue import CORE_SECTIONS, tables_of
    from dpotrain.recipe.sections.run import TopLevel

    plugins, document = PluginManager.from_entry_points(), _document(recipe)
    yield from _fields("", TopLevel.model_fields)
    for table in tables_of(plugins.kinds):
        if table in CORE_SECTIONS:
            yield from _fields(f"{table}.", CORE_SECTIONS[table].model_fields)
        if (kind := plugins.kinds.tables.get(table)) is not None:
            offered = plugins.components(kind.component)
            yield f"{table}.use", ("", tuple(each.name for each in offered))
            chosen = document.get(table, {})
            use = chosen.get("use", kind.default_use) if isinstance(chosen, dict) else None
            yield from _options(f"{table}.", [each for each in offered if use in (None, each.name)])


def _options(
    prefix: str, components: Iterable[type[Component]]
) -> Iterator[tuple[str, tuple[str, tuple[str, ...]]]]:
    for component in components:
        yield from _fields(prefix, component.Options.model_fields)


def _fields(prefix: str, fields: dict[str, FieldInfo]) -> Iterator[tuple[str, tuple[str, tuple[str, ...]]]]:
    for name, field in fields.items():
        about = (field.description or "").split(". ")[0].split("; ")[0]
        yield f"{prefix}{name}", (about, tuple(_values(field.annotation)))


def _values(annotation: Any) -> Iterator[str]:
    """Yield the values of a type that has few."""
    from typing import Literal, get_args, get_origin

    if annotation is bool:
        yield from ("true", "false")
    elif get_origin(annotation) is Literal:
        yield from map(str, get_args(annotation))
    else:
        for inner in get_args(annotation):
            yield from _values(inner)


def _document(recipe: str | None) -> dict[str, Any]:
    """Return the recipe's tables, none where it cannot be read."""
    from dpotrain.core.errors import DpotrainError
    from dpotrain.recipe.load import read_document

    if recipe is None:
        return {}
    try:
        return read_document(Path(recipe), ()).document
    except DpotrainError:
        return {}
