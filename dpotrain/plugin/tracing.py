"""Recording which plugin is called, with what, in which order: for ``plugins --trace`` and ``dpotrain.testing``."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpotrain.plugin.components import CATALOGUES, Component
from dpotrain.plugin.hooks import EVENTS, implementations
from dpotrain.plugin.manager import PluginManager
from dpotrain.recipe.expected import shown

if TYPE_CHECKING:
    from dpotrain.plugin.plugin import Plugin
    from dpotrain.recipe.recipe import Recipe


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


def trace(recipe: Recipe, record: Callable[[Call], None]) -> Recipe:
    """Return the recipe with ``record`` called before every call of a selected component or active plugin.

    What reading the recipe called is recorded at once, in its order. Components are changed in place and keep their
    class; calls of a loss are not recorded, since its mathematics is all that there is to it.
    """
    for call in _calls_so_far(recipe):
        record(call)
    for part in recipe.components:
        owner = recipe.plugins.owner(type(part)).name
        for name in methods_of(part):
            if name == "__call__":  # which is looked up on the class
                continue
            made = functools.partial(Call, owner, f"{part.kind} {part.name}", name)
            setattr(part, name, _recorded(getattr(part, name), made, record))
    active = recipe.plugins.active(recipe)
    plugins = [_traced(each, record) if each in active else each for each in recipe.plugins.plugins]
    return replace(recipe, plugins=PluginManager(plugins))


def _calls_so_far(recipe: Recipe) -> Iterator[Call]:
    for plugin in recipe.plugins.plugins:
        for hook in plugin.hooks:
            if hook in CATALOGUES:
                yield Call(plugin.name, "", hook, "")
    parts = [(recipe.plugins.owner(type(part)).name, part) for part in recipe.components]
    for owner, part in parts:
        table = part.options.model_dump(mode="json")  # which masks secrets
        options = ", ".join(f"{name}={shown(value)}" for name, value in table.items())
        yield Call(owner, f"{part.kind} {part.name}", "__init__", options)
    for owner, part in parts:
        yield Call(owner, f"{part.kind} {part.name}", "check", "")


def methods_of(part: Component) -> list[str]:
    """Return the methods of the component's kind that the engine calls after reading the recipe, and its run events."""
    kind = next(kind for kind in CATALOGUES.values() if isinstance(part, kind))
    public = [
        name
        for name, member in vars(kind).items()
        if inspect.isfunction(member) and (not name.startswith("_") or name == "__call__")
    ]
    return [*public, *(event for event in EVENTS if event in implementations(part, part.name))]


def _traced(plugin: Plugin, record: Callable[[Call], None]) -> Plugin:
    """Return the plugin with a module that holds its run events, each recorded."""
    module = types.SimpleNamespace()
    for hook, implementation in implementations(plugin.module, plugin.label).items():
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
