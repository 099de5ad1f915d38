"""The recipe reference, from the core's sections and the options of the built-in components."""

import inspect
import itertools
from collections.abc import Iterable, Iterator

from pydantic import BaseModel

from dpotrain.plugin.api import Component, DatasetFormatter
from dpotrain.plugin.api.kinds import CORE_KINDS
from dpotrain.plugin.describe.options import Option, options_of
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.recipe.sections.catalogue import CORE_SECTIONS, OPTIONAL_SECTIONS, TABLES
from dpotrain.recipe.sections.run import TopLevel
from tests.docs.markdown import paragraphs, table

_HEAD = ("key", "value", "default", "meaning")


def tables() -> str:
    """Return every table of a recipe with its keys, in Markdown."""
    plugins = built_ins()
    blocks = ["### The top", *paragraphs(TopLevel), keys(TopLevel)]
    for name in TABLES:
        blocks += _table(name, plugins)
    return "\n\n".join(block for block in blocks if block)


def built_ins() -> PluginManager:
    """Return the plugins that come with dpotrain, whatever else is installed."""
    everything = PluginManager.from_entry_points()
    return PluginManager(plugin for plugin in everything.plugins if plugin.distribution == "dpotrain")


def keys(model: type[BaseModel]) -> str:
    """Return a Markdown table of a model's keys, with ``extends`` at the top of the recipe."""
    rows = list(_rows(options_of(model)))
    if model is TopLevel:
        rows.insert(
            0, ("`extends`", "a path", "", "A recipe that this one inherits from, relative to its folder.")
        )
    return table(_HEAD, rows) if rows else "No keys of its own."


def _rows(options: Iterable[Option], within: str = "") -> Iterator[tuple[str, str, str, str]]:
    for option in options:
        default = {"": "required", "unset": "unset"}.get(option.default, f"`{option.default}`")
        yield f"`{within}{option.name}`", option.takes, default, option.description
        for inside in option.tables:
            yield from _rows(inside.options, f"{within}{inside.at}.")


def _table(name: str, plugins: PluginManager) -> list[str]:
    heading = f"### `[[{name}]]`" if name in CORE_KINDS.listed else f"### `[{name}]`"
    blocks = [heading]
    if name in CORE_SECTIONS:
        may = ["The table may be left out."] if name in OPTIONAL_SECTIONS else []
        blocks += [*paragraphs(CORE_SECTIONS[name]), *may, keys(CORE_SECTIONS[name])]
    kind = {**CORE_KINDS.tables, **CORE_KINDS.listed}.get(name)
    if kind is not None:
        may = ""
        if kind.default_use is not None:
            may = f' Where it is not said, it is "{kind.default_use}".'
        elif kind.selected != "required":
            may = " The table may be left out."
        blocks.append(f"`use` picks the {kind.component.kind}.{may}")
        for component in plugins.components(kind.component):
            blocks += [f'#### `use = "{component.name}"`', *paragraphs(component), keys(component.Options)]
    if name == "data":
        blocks += ["#### `format`", _formats(plugins)]
    return blocks


def _formats(plugins: PluginManager) -> str:
    """Return a table of the formatters, and the options of those that have any."""
    formatters = plugins.components(DatasetFormatter)
    rows = [
        (f'`"{formatter.name}"`', ", ".join(f"`{column}`" for column in formatter.columns), _first(formatter))
        for formatter in formatters
    ]
    blocks = [table(("name", "columns it reads", "rows"), rows)]
    for formatter in formatters:
        if formatter.Options.model_fields:
            blocks += [f'Options of `format = {{ use = "{formatter.name}", … }}`:', keys(formatter.Options)]
    return "\n\n".join(blocks)


def _first(component: type[Component]) -> str:
    doc = inspect.getdoc(component) or ""
    return " ".join(itertools.takewhile(str.strip, doc.splitlines()))
