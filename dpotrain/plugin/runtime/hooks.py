"""Finds the hook implementations of a plugin, and refuses those that would never be called."""

from __future__ import annotations

import functools
import inspect
import types
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import pluggy
from pluggy import HookImpl

from dpotrain.core.errors import PluginError, did_you_mean
from dpotrain.plugin.api.hookspecs import hooks_of
from dpotrain.plugin.api.kinds import CORE_KINDS, Kinds
from dpotrain.plugin.runtime.interface import DeprecatedHook

_PREFIX = "dpotrain_"
_MARK, _SPEC = "dpotrain_impl", "dpotrain_spec"

Hooks: TypeAlias = Mapping[str, Callable[..., Any]]


def implementations(
    owner: object, label: str, kinds: Kinds = CORE_KINDS, deprecated: list[str] | None = None
) -> dict[str, HookImpl]:
    """Return the hook implementations of a module or object by hook name, in the order of the specifications.

    ``kinds`` are those that it can offer components of. Warnings about deprecated hooks are added to ``deprecated``.

    Raises PluginError, beginning with ``label``, for a name that is not a hook, a ``dpotrain_*`` function
    without ``@hookimpl``, an argument that the hook does not have, and wrappers (which cannot be isolated).
    """
    hooks, marked = hooks_of(kinds), []
    for name, attribute in _attributes(owner).items():
        mark = _mark(attribute)
        if mark is not None:
            _check_mark(mark.get("specname") or name, mark, label, hooks)
            marked.append(name)
        elif name.startswith(_PREFIX) and inspect.isfunction(attribute) and not is_specification(attribute):
            if name in hooks:
                fault = f"{name} lacks @hookimpl (from dpotrain import hookimpl), so it is never called"
            else:
                fault = f"{_unknown(name, hooks)}\nnames that begin with {_PREFIX} are reserved for hooks"
            raise PluginError(f"{label}: {fault}")
    if not marked:
        return {}
    registry = _registry(kinds)
    # Of the owner only what is marked: pluggy would read its properties.
    plugin = types.SimpleNamespace(**{name: getattr(owner, name) for name in marked})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", DeprecatedHook)
        try:
            registry.register(plugin, name="plugin")
            callers = registry.get_hookcallers(plugin) or []
            implemented = {caller.name: caller.get_hookimpls()[0] for caller in callers}
        except pluggy.PluginValidationError as error:
            fault = _wrong_arguments(plugin, hooks) or str(error).splitlines()[-1]
            raise PluginError(f"{label}: {fault}") from error
        finally:
            registry.unregister(name="plugin")
    if deprecated is not None:
        deprecated += [str(warning.message) for warning in caught]
    return {hook: implemented[hook] for hook in hooks if hook in implemented}


def implementation_of(owner: object, hook: str) -> Callable[..., Any] | None:
    """Return the function of a module or object that implements a hook, before it is known which hooks there are."""
    for name, attribute in _attributes(owner).items():
        mark = _mark(attribute)
        if mark is not None and (mark.get("specname") or name) == hook:
            return getattr(owner, name)  # type: ignore[no-any-return]
    return None


def is_specification(function: object) -> bool:
    """Whether it is a function with ``@hookspec``."""
    return inspect.isfunction(function) and hasattr(function, _SPEC)


def _wrong_arguments(plugin: object, hooks: Hooks) -> str:
    """Return which hook of a plugin has an argument that its specification does not have, and what that has."""
    for name, function in vars(plugin).items():
        hook = (_mark(function) or {}).get("specname") or name
        if hook not in hooks:
            continue
        taken = list(inspect.signature(hooks[hook]).parameters)
        wrong = [
            each
            for each in inspect.signature(function).parameters
            if each not in taken and not (each == "self" and not inspect.ismethod(function))
        ]
        if wrong:
            takes = f"it can take {', '.join(taken)}" if taken else "it takes none"
            return f"{hook} has no argument {' or '.join(wrong)}; {takes}"
    return ""


@functools.cache
def _registry(kinds: Kinds) -> pluggy.PluginManager:
    """Return the one registry of these kinds, which holds only the plugin that is being read.

    It is made once: reading the specifications is most of the work, and a list of fifty plugins needs them a hundred
    times.
    """
    registry = pluggy.PluginManager("dpotrain")
    registry.add_hookspecs(
        type("Hooks", (), {name: staticmethod(spec) for name, spec in hooks_of(kinds).items()})
    )
    return registry


def _attributes(owner: object) -> dict[str, Any]:
    """Return the attributes that could be hooks as they stand in a module, class or object; no property is run."""
    if isinstance(owner, types.ModuleType):
        found = vars(owner)
    elif isinstance(owner, type):
        found = {name: value for base in reversed(owner.__mro__) for name, value in vars(base).items()}
    else:
        found = {name: inspect.getattr_static(owner, name, None) for name in dir(owner)}
    return {name: value for name, value in found.items() if not name.startswith("__")}


def _mark(attribute: Any) -> dict[str, Any] | None:
    """Return what ``@hookimpl`` left on a function."""
    if isinstance(attribute, staticmethod | classmethod):
        attribute = attribute.__func__
    mark = getattr(attribute, _MARK, None) if inspect.isroutine(attribute) else None
    return mark if isinstance(mark, dict) else None


def _check_mark(hook: str, mark: dict[str, Any], label: str, hooks: Hooks) -> None:
    if hook not in hooks:
        sure = did_you_mean(hook, hooks, cutoff=0.85)  # else it may be one that a plugin declares
        other = "" if sure else "\nor the plugin that declares it is not installed, has failed or is blocked"
        raise PluginError(f"{label}: {_unknown(hook, hooks)}{other}")
    if mark.get("wrapper") or mark.get("hookwrapper"):
        raise PluginError(
            f"{label}: {hook} is a wrapper; dpotrain calls implementations one by one, so none can wrap others"
        )


def _unknown(name: str, hooks: Hooks) -> str:
    return f'there is no hook "{name}"{did_you_mean(name, hooks, cutoff=0.5)}'
