"""What ``dpotrain plugins show`` shows: plain lines, the same in a terminal and elsewhere."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

from dpotrain.core.formats import printable
from dpotrain.plugin.describe.options import Option
from dpotrain.plugin.describe.page import ComponentPage, KindPage, PluginPage
from dpotrain.plugin.runtime.interface import INTERFACE
from dpotrain.ui.plugins_table import origin


def page_text(page: PluginPage) -> str:
    """Return the page: the plugin, its kinds, each component with its options and a table, each command's help."""
    kinds = (line for kind in page.declared_kinds for line in ("", *_kind(kind)))
    components = (line for component in page.components for line in ("", *_component(component)))
    return printable("\n".join([*_fields(page), *kinds, *components, *_commands(page)]))


def _fields(page: PluginPage) -> Iterator[str]:
    info = page.info
    yield f'plugin "{info.name}"'
    says = "it does not say" if info.interface is None else str(info.interface)
    only_commands = bool(info.commands) and not page.hooks and info.interface is None
    fields = {
        "distribution": origin(info),
        "licence": page.licence or "none stated",
        "file": info.file or "not found",
        "interface": f"{says} (this dpotrain has {INTERFACE})" if not only_commands else "",
        "hooks": ", ".join(page.hooks),
        "subscribes": ", ".join(info.events),
        "commands": ", ".join(info.commands),
        "status": info.status,
        "reason": info.reason,
        "note": "\n".join(info.notes),
    }
    for label, value in fields.items():
        if value:
            yield f"  {label:<14}" + value.replace("\n", f"\n{'':16}")


def _kind(kind: KindPage) -> Iterator[str]:
    yield f'kind "{kind.kind}"'
    if kind.about:
        yield textwrap.indent(kind.about, "  ")
    yield ""
    fields = {
        "in a recipe": f"{kind.table}, {kind.selected}",
        "hook": kind.hook,
        "class": kind.component,
        "offered": ", ".join(kind.components) or "by no plugin that is installed",
    }
    for label, value in fields.items():
        yield f"  {label:<14}{value}"


def _component(component: ComponentPage) -> Iterator[str]:
    yield f'{component.kind} "{component.name}"'
    if component.about:
        yield textwrap.indent(component.about, "  ")
    if component.options:
        yield "\n  options:"
        yield textwrap.indent("\n".join(_options(component.options)), "    ")
    yield "\n  in a recipe:"
    yield textwrap.indent(component.example, "    ")


def _options(options: Iterable[Option]) -> Iterator[str]:
    for option in options:
        default = {"": "(required)", "unset": "(unset)"}.get(option.default, f"= {option.default}")
        takes = f"  {option.takes}" if option.takes else ""
        yield f"{option.name} {default}{takes}"
        yield f"  {option.description}"
        if option.picks:
            yield f"  use: {', '.join(option.picks)}"
        for table in option.tables:
            yield f"  keys of {table.at}:"
            yield textwrap.indent("\n".join(_options(table.options)), "    ")


def _commands(page: PluginPage) -> Iterator[str]:
    for command in page.commands:
        if command.help:
            yield f'\ncommand "{command.name}"'
            yield textwrap.indent(command.help, "  ")
