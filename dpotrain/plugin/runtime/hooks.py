"""Finding the hook implementations of a plugin, and refusing those that no hook would ever call."""

from __future__ import annotations

import functools
import inspect
import types
import warnings
from typing import Any, NoReturn

import pluggy
from pluggy import HookImpl

from dpotrain.core.errors import PluginError, did_you_mean
from dpotrain.plugin.api.hookspecs import HOOKS
from dpotrain.plugin.runtime.interface import DeprecatedHook

_PREFIX = "dpotrain_"
_MARK = "dpotrain_impl"


class _Registry(pluggy.PluginManager):
    """A pluggy manager for one plugin at a time that never evaluates a property of it."""

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        return super().parse_hookimpl_opts(plugin, name) if _mark(plugin, name) is not None else None


def implementations(owner: object, label: str, deprecated: list[str] | None = None) -> dict[str, HookImpl]:
    """Return the hook implementations of a module or object by hook name, in the order of the page.

    What the specifications have to say to implementations of hooks that are going away is added to ``deprecated``.

    Raises PluginError, beginning with ``label``, for a name that is no hook, a ``dpotrain_*`` function
    without ``@hookimpl``, an argument that the hook does not have, and wrappers (which could not be isolated).
    """
    marked = False
    for name in dir(owner):
        mark = _mark(owner, name)
        if mark is not None:
            _check_mark(mark.get("specname") or name, mark, label)
            marked = True
        elif _defines_hook(owner, name):
            _refuse_unmarked(name, label)
    if not marked:
        return {}
    registry = _registry()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", DeprecatedHook)
        try:
            registry.register(owner, name="plugin")
            callers = registry.get_hookcallers(owner) or []
            implemented = {caller.name: caller.get_hookimpls()[0] for caller in callers}
        except pluggy.PluginValidationError as error:
            # pluggy's last line is the only one that says what is wrong; the rest shows objects.
            raise PluginError(f"{label}: {str(error).splitlines()[-1]}") from error
        finally:
            registry.unregister(name="plugin")
    if deprecated is not None:
        deprecated += [str(warning.message) for warning in caught]
    return {hook: implemented[hook] for hook in HOOKS if hook in implemented}


@functools.cache
def _registry() -> _Registry:
    """Return the one registry, which never holds more than the plugin that is being looked at.

    Reading the specifications is most of the work, and a list of fifty plugins asks for them a hundred times.
    """
    registry = _Registry("dpotrain")
    registry.add_hookspecs(type("Hooks", (), {name: staticmethod(spec) for name, spec in HOOKS.items()}))
    return registry


def _mark(owner: object, name: str) -> dict[str, Any] | None:
    """Return what ``@hookimpl`` left on a function, without running any property."""
    attribute = _attribute(owner, name)
    if isinstance(attribute, staticmethod | classmethod):
        attribute = attribute.__func__
    mark = getattr(attribute, _MARK, None) if inspect.isroutine(attribute) else None
    return mark if isinstance(mark, dict) else None


def _attribute(owner: object, name: str) -> Any:
    """Return an attribute as it stands in its module or class, or None; Python's own names are nobody's hooks."""
    if name.startswith("__"):
        return None
    if isinstance(owner, types.ModuleType):
        return vars(owner).get(name)  # what getattr_static comes to, and a tenth of its time
    if isinstance(owner, type):
        return next((vars(base)[name] for base in owner.__mro__ if name in vars(base)), None)  # likewise
    return inspect.getattr_static(owner, name, None)


def _defines_hook(owner: object, name: str) -> bool:
    return name.startswith(_PREFIX) and inspect.isfunction(_attribute(owner, name))


def _check_mark(hook: str, mark: dict[str, Any], label: str) -> None:
    if hook not in HOOKS:
        raise PluginError(f'{label}: there is no hook "{hook}"{_nearest(hook)}')
    if mark.get("wrapper") or mark.get("hookwrapper"):
        raise PluginError(
            f"{label}: {hook} is a wrapper; dpotrain's hooks take none, each is called by itself"
        )


def _refuse_unmarked(name: str, label: str) -> NoReturn:
    if name in HOOKS:
        raise PluginError(
            f"{label}: {name} lacks @hookimpl (from dpotrain import hookimpl), so it is never called"
        )
    raise PluginError(
        f'{label}: there is no hook "{name}"{_nearest(name)}\n'
        f"names that begin with {_PREFIX} are kept for hooks"
    )


def _nearest(name: str) -> str:
    return did_you_mean(name, HOOKS, cutoff=0.5)
