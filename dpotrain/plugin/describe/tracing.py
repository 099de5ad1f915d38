"""Recording which plugin is called, with what, in which order: for ``plugins --trace`` and ``dpotrain.testing``."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dpotrain.plugin.api import Component, DatasetFormatter, Selection, kind_of
from dpotrain.plugin.api.hookspecs import EVENTS
from dpotrain.plugin.api.kinds import Kinds
from dpotrain.plugin.describe.expected import shown
from dpotrain.plugin.runtime.hooks import implementations
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.plugin.runtime.plugin import Plugin


@dataclass(frozen=True, slots=True)
class Call:
    """One call of something that a plugin brought."""

    plugin: str
    """The plugin's name."""
    component: str
    """Kind and name, ``loss dpo``; empty for a hook of the plugin's module."""
    method: str
    """The hook or method; ``__init__`` where the component is constructed."""
    arguments: str
    """What it was called with, in few words."""

    def __str__(self) -> str:
        owner = f"{self.component} of {self.plugin}" if self.component else self.plugin
        return f"{owner}: {self.method}({self.arguments})"


def trace(selection: Selection, plugins: PluginManager, record: Callable[[Call], None]) -> PluginManager:
    """Return the plugins with ``record`` called before every call of a selected component or active plugin.

    What reading the recipe called is recorded at once, in its order. Components are changed in place and keep their
    class; calls of a loss are not recorded, since its mathematics is all that there is to it. With ``format = "auto"``
    it is recorded, too, what the formatters are asked, and what the one is that was found.
    """
    for call in _calls_so_far(selection, plugins):
        record(call)
    for part in selection.components:
        _record_methods(part, plugins.owner(type(part)).name, record)
    active = plugins.active(selection)
    traced = [_traced(each, plugins.kinds, record) if each in active else each for each in plugins.plugins]
    if selection.formatter is None:
        traced = [_with_recording_formatters(each, record) for each in traced]
    return PluginManager(traced)


def _calls_so_far(selection: Selection, plugins: PluginManager) -> Iterator[Call]:
    for plugin in plugins.plugins:
        for hook in plugin.hooks:
            if hook in plugins.kinds.catalogues:
                yield Call(plugin.name, "", hook, "")
    parts = [(plugins.owner(type(part)).name, part) for part in selection.components]
    for owner, part in parts:
        yield _construction(owner, type(part), part.options)
    for owner, part in parts:
        yield Call(owner, f"{part.kind} {part.name}", "check", "")


def _construction(owner: str, component: type[Component], options: Component.Options) -> Call:
    table = options.model_dump(mode="json")  # which masks secrets
    words = ", ".join(f"{name}={shown(value)}" for name, value in table.items())
    return Call(owner, f"{component.kind} {component.name}", "__init__", words)


def methods_of(part: Component) -> list[str]:
    """Return the methods of the component's kind that the engine calls after reading the recipe, and its run events."""
    kind = kind_of(type(part)).component
    return [*methods_of_kind(kind), *(event for event in EVENTS if event in implementations(part, part.name))]


def methods_of_kind(kind: type[Component]) -> list[str]:
    """Return the methods that a kind has besides those of every kind, but for those that none may override."""
    return [
        name
        for name, member in vars(kind).items()
        if inspect.isfunction(member)
        and (not name.startswith("_") or name == "__call__")
        and not getattr(member, "__final__", False)
    ]


def _record_methods(part: Component, owner: str, record: Callable[[Call], None]) -> None:
    """Record every call of a component from here on."""
    for name in methods_of(part):
        if name == "__call__":  # which is looked up on the class
            continue
        made = functools.partial(Call, owner, f"{part.kind} {part.name}", name)
        setattr(part, name, _recorded(getattr(part, name), made, record))


def _with_recording_formatters(plugin: Plugin, record: Callable[[Call], None]) -> Plugin:
    """Return the plugin with formatters that record themselves, since they are constructed only in a run."""
    components = (
        _recording(each, plugin.name, record) if issubclass(each, DatasetFormatter) else each
        for each in plugin.components
    )
    return replace(plugin, components=tuple(components))


def _recording(
    formatter: type[DatasetFormatter], owner: str, record: Callable[[Call], None]
) -> type[DatasetFormatter]:
    def construct(self: DatasetFormatter, options: Component.Options) -> None:
        record(_construction(owner, formatter, options))
        formatter.__init__(self, options)
        _record_methods(self, owner, record)

    same = {"__module__": formatter.__module__, "__qualname__": formatter.__qualname__}
    return type(formatter.__name__, (formatter,), {"__init__": construct, **same})


def _traced(plugin: Plugin, kinds: Kinds, record: Callable[[Call], None]) -> Plugin:
    """Return the plugin with a module that holds its run events, each recorded."""
    module = types.SimpleNamespace()
    for hook, implementation in implementations(plugin.module, plugin.label, kinds).items():
        if hook in EVENTS:
            made = functools.partial(Call, plugin.name, "", hook)
            setattr(module, hook, _recorded(implementation.function, made, record))
    return replace(plugin, module=module)


def _recorded(
    function: Callable[..., Any], call: Callable[[str], Call], record: Callable[[Call], None]
) -> Callable[..., Any]:
    @functools.wraps(function)
    def called(*arguments: Any, **named: Any) -> Any:
        words = [_short(value) for value in arguments]
        words += [f"{key}={_short(value)}" for key, value in named.items()]
        record(call(", ".join(words)))
        return function(*arguments, **named)

    return called


def _short(value: Any) -> str:
    """Return a value in a word: small ones as they are, others by their type, never the data's own text."""
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if isinstance(value, str | Path) and len(str(value)) <= 60:
        return repr(str(value))
    return type(value).__name__
