"""What ``dpotrain plugins show`` shows: plain lines, the same in a terminal and elsewhere."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dpotrain.plugin.interface import INTERFACE
from dpotrain.ui.formats import printable
from dpotrain.ui.plugins_table import origin

if TYPE_CHECKING:
    from dpotrain.plugin.page import ComponentPage, PluginPage


def page_text(page: PluginPage) -> str:
    """Return the page: the plugin's facts, then each component with its options and a table to paste."""
    return printable("\n".join([*_facts(page), *_components(page)]))


def _facts(page: PluginPage) -> Iterator[str]:
    info = page.info
    yield f'plugin "{info.name}"'
    says = "it does not say" if info.interface is None else str(info.interface)
    facts = {
        "distribution": origin(info),
        "licence": page.licence or "none stated",
        "file": info.file or "not found",
        "interface": f"{says} (this dpotrain has {INTERFACE})",
        "hooks": ", ".join(page.hooks),
        "hears": ", ".join(info.events),
        "status": info.status,
        "reason": info.reason,
        "note": "\n".join(info.notes),
    }
    for label, value in facts.items():
        if value:
            yield f"  {label:<14}" + value.replace("\n", f"\n{'':16}")


def _components(page: PluginPage) -> Iterator[str]:
    for component in page.components:
        yield ""
        yield from _component(component)


def _component(component: ComponentPage) -> Iterator[str]:
    yield f'{component.kind} "{component.name}"'
    if component.about:
        yield textwrap.indent(component.about, "  ")
    if component.options:
        yield "\n  options:"
    for option in component.options:
        default = {"": "(required)", "unset": "(unset)"}.get(option.default, f"= {option.default}")
        takes = f"  {option.takes}" if option.takes else ""
        yield f"    {option.name} {default}{takes}"
        yield f"      {option.description}"
    yield "\n  in a recipe:"
    yield textwrap.indent(component.example, "    ")
