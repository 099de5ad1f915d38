"""Checks of component classes before they are offered to recipes."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

from pydantic.errors import PydanticUserError

from dpotrain.core.errors import PluginError
from dpotrain.plugin.api import Callback, Component, DatasetFormatter, DatasetSource, Loss, Options
from dpotrain.plugin.api.dataset_source import CORE_KEYS
from dpotrain.plugin.api.hookspecs import EVENTS
from dpotrain.plugin.api.kinds import KINDS
from dpotrain.plugin.api.returns import Due, described, due_of, is_bool
from dpotrain.plugin.runtime.hooks import implementations

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

#: The value of ``data.format`` that asks all formatters.
AUTO = "auto"


def check_component(component: Any, kind: type[Component], hook: str) -> None:
    """Raise a PluginError for a class that a recipe cannot select, or whose options cannot be read."""
    if not (isinstance(component, type) and issubclass(component, kind)):
        raise PluginError(f"{hook} offers {component!r}, which is not a subclass of {kind.__name__}")
    label = component.__qualname__
    name = getattr(component, "name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise PluginError(
            f'{label} needs a name of letters, digits and . _ -, such as name = "simpo"; it has {name!r}'
        )
    label = f'{kind.kind} "{name}"'
    if kind is DatasetFormatter and name == AUTO:
        raise PluginError(f'{label}: "{AUTO}" means that all formatters are asked; choose another name')
    missing = sorted(getattr(component, "__abstractmethods__", ()))
    if inspect.isabstract(component):
        raise PluginError(f"{label} lacks {', '.join(f'{method}()' for method in missing)}")
    if kind is Callback and not any(name in EVENTS for name in implementations(component, label)):
        raise PluginError(f"{label} has no run event, such as @hookimpl def dpotrain_evaluated(self, run, …)")
    if kind is Loss and _overrides(component, "parts") and not _overrides(component, "part_names"):
        raise PluginError(
            f'{label}: parts is called only for the names in part_names, such as part_names = ("sft",)'
        )
    _check_columns(component, label)
    _check_attributes(component, kind, label)
    _check_methods(component, kind, label)
    _check_options(component, kind, label)


def _overrides(component: type[Component], name: str) -> bool:
    return inspect.getattr_static(component, name) is not inspect.getattr_static(Loss, name)


def _check_columns(component: type[Component], label: str) -> None:
    columns = getattr(component, "columns", ())
    if not isinstance(columns, tuple) or not all(isinstance(each, str) and each for each in columns):
        raise PluginError(f'{label}: columns must be a tuple of names, such as ("weight",), not {columns!r}')


def _check_attributes(component: type[Component], kind: type[Component], label: str) -> None:
    """Refuse an attribute that is not what the kind has under its name: a method, a property, True or False."""
    for name, plain in _attributes(kind):
        own = _as_written(component, name)
        if own is plain:
            continue
        if getattr(plain, "__final__", False):
            raise PluginError(f"{label}: {name} is {kind.__name__}'s own and cannot be overridden")
        if isinstance(plain, property) and inspect.isfunction(own):
            raise PluginError(f"{label}: {name} must be an attribute or a property (@property), not a method")
        if inspect.isfunction(plain) and not callable(own) and not hasattr(own, "__get__"):
            raise PluginError(f"{label}: {name} must be a method; it is {described(own)}")
        if hasattr(own, "__get__"):  # a property is checked when it is read
            continue
        due = due_of(kind, name)
        if due is None and isinstance(plain, bool):
            due = Due("True or False", is_bool)
        if due is not None and not due.fits(own):
            raise PluginError(f"{label}: {name} is {described(own)}; it must be {due.what}")


def _check_methods(component: type[Component], kind: type[Component], label: str) -> None:
    """Refuse a method that does not take the arguments of its kind, which else shows in the middle of a run."""
    for name, method in _methods(kind):
        own = _as_written(component, name)
        if own is method or not inspect.isfunction(own):
            continue
        expected = inspect.signature(method).parameters
        required = [each for each in expected.values() if each.default is inspect.Parameter.empty]
        for given in (len(required), len(expected)):
            try:
                inspect.signature(own).bind(*[None] * given)
            except TypeError:
                raise PluginError(f"{label}: {_call(own)} is called as {_call(method)}") from None


@functools.cache
def _attributes(kind: type[Component]) -> list[tuple[str, Any]]:
    """Return the public attributes of a kind, and ``__call__``, as they are written."""
    members = inspect.getmembers_static(kind)
    return [(name, plain) for name, plain in members if not name.startswith("_") or name == "__call__"]


@functools.cache
def _methods(kind: type[Component]) -> list[tuple[str, Callable[..., object]]]:
    """Return the public methods of a kind, ``__init__`` and ``__call__``."""
    members = inspect.getmembers(kind, inspect.isfunction)
    return [each for each in members if not each[0].startswith("_") or each[0] in ("__init__", "__call__")]


def _as_written(component: type[Component], name: str) -> Any:
    """Return an attribute as it is written in a class or a base of it: a property, not its value."""
    return next(vars(base)[name] for base in component.__mro__ if name in vars(base))


def _call(method: Callable[..., object]) -> str:
    parameters = inspect.signature(method).parameters.values()
    return f"{method.__name__}({', '.join(str(each.replace(annotation=each.empty)) for each in parameters)})"


def _check_options(component: type[Component], kind: type[Component], label: str) -> None:
    options = component.Options
    if not isinstance(options, type) or not issubclass(options, kind.Options) or _another_kind(options, kind):
        base = f", not from {_named(options.__base__)}" if isinstance(options, type) else ""
        raise PluginError(
            f"{label}: its Options must derive from {kind.__name__}.Options{base}\n"
            f"class Options({kind.__name__}.Options): …"
        )
    if options.model_config.get("extra") != "forbid" or not options.model_config.get("frozen"):
        raise PluginError(f'{label}: its Options must keep frozen=True and extra="forbid"')
    if fault := _schema_fault(options):
        raise PluginError(f"{label}: its Options cannot be written in a recipe: {fault}")
    for key, field in options.model_fields.items():
        if not field.description:
            raise PluginError(f'{label}: option "{key}" has no description: Field(…, description="…")')
        if key == "use":
            raise PluginError(f'{label}: an option cannot be called "use", which picks the component')
        if kind is DatasetSource and key in CORE_KEYS:
            raise PluginError(f'{label}: option "{key}" is a key of [data] that dpotrain itself reads')


def _another_kind(options: type, kind: type[Component]) -> bool:
    """Whether options derive from those of another kind, and have keys that mean nothing to this one."""
    others = [row.component.Options for row in KINDS if "Options" in vars(row.component)]
    return any(issubclass(options, other) and not issubclass(kind.Options, other) for other in others)


def _named(base: type | None) -> str:
    return "" if base is None else base.__qualname__


@functools.cache  # most components share the Options of their kind
def _schema_fault(options: type[Options]) -> str:
    """Return why an Options model has no JSON schema, or ""."""
    try:
        options.model_json_schema()
    except PydanticUserError as error:
        return str(error).splitlines()[0]
    return ""
