"""One plugin: found by its entry point, loaded in isolation, and checked before it is used."""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import inspect
import sys
import time
import types
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from dpotrain.core.errors import PluginError, describe_exception
from dpotrain.core.moved import MovedWarning
from dpotrain.core.packages import name_and_version
from dpotrain.plugin.api import Component, Kind
from dpotrain.plugin.api.hookspecs import EVENTS
from dpotrain.plugin.api.kinds import Kinds
from dpotrain.plugin.runtime.checks import check_component
from dpotrain.plugin.runtime.hooks import implementations
from dpotrain.plugin.runtime.interface import check_interface, declared_by, declared_in

GROUP = "dpotrain"

#: Packages that take long to import, which a list of plugins should not wait for.
HEAVY = frozenset(
    {
        *("torch", "transformers", "peft", "accelerate", "bitsandbytes", "datasets", "pyarrow", "pandas"),
        *("wandb", "mlflow", "trackio", "tensorboard", "torchao", "tensorflow", "jax", "scipy", "sklearn"),
    }
)
#: The classes of each kind that were found to be right: a process reads recipes again and again.
_CHECKED: WeakKeyDictionary[type[Component], WeakSet[type[Component]]] = WeakKeyDictionary()

#: Seconds from which the import of a plugin is noted as slow, whatever it imports.
SLOW = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Plugin:
    """A plugin as it was found; ``reason`` says why it is blocked or failed."""

    name: str
    """The entry point's name."""
    distribution: str | None = None
    """None for an object that was registered by hand."""
    given: bool = False
    """Whether it was registered by hand, and not found by an entry point."""
    version: str | None = None
    file: str | None = None
    module: Any = None
    kinds: tuple[Kind, ...] = ()
    """The kinds of component that it declares."""
    components: tuple[type[Component], ...] = ()
    events: tuple[str, ...] = ()
    """The run events that its module or its components subscribe to."""
    hooks: tuple[str, ...] = ()
    """The hooks that its module implements."""
    interface: int | None = None
    """The version of the plugin interface that it was written for, where it says so."""
    notes: tuple[str, ...] = ()
    """What its author should fix although it works: a slow import, a deprecated hook or import."""
    blocked: bool = False
    failed: bool = False
    reason: str = ""
    error: BaseException | None = None
    """What was raised while it was loaded."""

    @property
    def label(self) -> str:
        """Name and distribution, for messages: ``plugin "lora" (dpotrain 0.1.0)``."""
        return f'plugin "{self.name}"' + (f" ({self.origin})" if self.distribution else "")

    @property
    def origin(self) -> str:
        """Distribution and version, for messages: ``dpotrain 0.1.0``."""
        return " ".join(part for part in (self.distribution, self.version) if part) or "registered by hand"

    def called(self, name: str) -> bool:
        """Whether a recipe's ``block`` means this plugin: its own name, or its distribution's."""
        if name == self.name:
            return True
        if self.distribution is None:
            return False
        from packaging.utils import canonicalize_name

        return canonicalize_name(name) == canonicalize_name(self.distribution)

    def failing(self, error: BaseException) -> Plugin:
        """Return the plugin as one that failed and offers nothing."""
        module = (
            self.module.value if isinstance(self.module, EntryPoint) else getattr(self.module, "__name__", "")
        )
        reason = describe_exception(error, module.partition(":")[0]).removeprefix(f"{self.label}: ")
        return replace(self.without_components(), failed=True, reason=reason, error=error)

    def without_components(self) -> Plugin:
        """Return the plugin as one that offers nothing."""
        return replace(self, module=None, kinds=(), components=(), events=(), hooks=(), notes=())


def installed() -> list[Plugin]:
    """Return all plugins that entry points name, not yet loaded, ordered by distribution and name."""
    found = [_found(point) for point in entry_points(group=GROUP)]
    return sorted(found, key=lambda plugin: ((plugin.distribution or "").lower(), plugin.name))


def by_hand(owner: object) -> Plugin:
    """Return a module or object as a plugin, not yet loaded."""
    if isinstance(owner, types.ModuleType):
        return Plugin(name=owner.__name__, given=True, file=getattr(owner, "__file__", None), module=owner)
    kind = owner if isinstance(owner, type) else type(owner)
    try:
        file = inspect.getsourcefile(kind)
    except (TypeError, OSError):
        file = None
    return Plugin(name=getattr(owner, "name", kind.__name__), given=True, file=file, module=owner)


def imported(plugin: Plugin) -> Plugin:
    """Import one plugin. Whatever goes wrong is kept in it, not raised, here and in :func:`loaded`."""
    notes: list[str] = []
    try:
        module = plugin.module
        if isinstance(module, EntryPoint):
            plugin = replace(plugin, interface=declared_in(plugin.file))
            check_interface(plugin.interface, plugin.distribution)
            with noting_imports(notes):
                module = module.load()
        if isinstance(module, type):
            raise PluginError("its entry point names a class; name the module, or an object of the class")
        plugin = replace(plugin, interface=declared_by(module))
        check_interface(plugin.interface, plugin.distribution)
    except (Exception, SystemExit) as error:  # a module may raise anything, or call sys.exit
        return plugin.failing(error)
    return replace(plugin, module=module, notes=tuple(notes))


def loaded(plugin: Plugin, kinds: Kinds) -> Plugin:
    """Check the hooks of a plugin that is imported, and the components of ``kinds`` that it offers."""
    notes = list(plugin.notes)
    try:
        found = implementations(plugin.module, plugin.label, kinds, notes)
        components = tuple(
            component
            for hook, implementation in found.items()
            if hook in kinds.catalogues
            for component in _offered(hook, kinds.catalogues[hook], implementation.function())
        )
        events = set(found)
        for component in components:
            heard, deprecated = _heard(component)
            events |= heard
            notes += deprecated
    except (Exception, SystemExit) as error:
        return plugin.failing(error)
    return replace(
        plugin,
        components=components,
        events=tuple(event for event in EVENTS if event in events),
        hooks=tuple(found),
        notes=tuple(dict.fromkeys(notes)),
    )


@contextmanager
def noting_imports(notes: list[str]) -> Iterator[None]:
    """Add a note where an import inside takes long, loads heavy packages, or uses an old address of dpotrain."""
    before, begun = HEAVY & sys.modules.keys(), time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MovedWarning)
        yield
    seconds, heavy = time.perf_counter() - begun, (HEAVY & sys.modules.keys()) - before
    if heavy or seconds >= SLOW:
        among = f", with {', '.join(sorted(heavy))}" if heavy else ""
        notes.append(
            f"slow: importing it took {seconds:.1f} s{among}; import heavy packages inside functions"
        )
    moved: dict[str, list[str]] = {}
    for warning in caught:
        if isinstance(warning.message, MovedWarning):
            moved.setdefault(warning.message.home, []).append(warning.message.old)
        warnings.warn_explicit(warning.message, None, warning.filename, warning.lineno)  # type: ignore[arg-type]
    for home, old in moved.items():
        notes.append(f"deprecated imports: {', '.join(dict.fromkeys(old))}; import from {home}")


def _offered(hook: str, kind: type[Component], offer: Any) -> list[type[Component]]:
    """Return what a catalogue hook returned, checked."""
    if isinstance(offer, type | str) or not isinstance(offer, Iterable):
        raise PluginError(f"{hook} must return a list of classes, not {offer!r}")
    components = list(offer)
    for component in components:
        if not isinstance(component, type) or component not in _CHECKED.get(kind, ()):
            check_component(component, kind, hook)
            _CHECKED.setdefault(kind, WeakSet()).add(component)
    return components


@functools.cache
def _heard(component: type[Component]) -> tuple[frozenset[str], tuple[str, ...]]:
    """Return the run events that a component subscribes to, and notes on them."""
    notes: list[str] = []
    found = implementations(component, f'{component.kind} "{component.name}"', deprecated=notes)
    return frozenset(found), tuple(notes)


def _found(point: EntryPoint) -> Plugin:
    distribution, version = (None, None) if point.dist is None else name_and_version(point.dist)
    return Plugin(
        name=point.name,
        distribution=distribution,
        version=version,
        file=file_of(point.module),
        # Once the package importlib_metadata is imported, as MLflow does, entry points are of its class.
        module=EntryPoint(point.name, point.value, point.group),
    )


def file_of(module: str) -> str | None:
    """Return the file that ``module`` would be imported from, without importing it or its packages."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
        for depth, _ in enumerate(rest, start=2):
            if spec is None or spec.submodule_search_locations is None:
                return None
            name = ".".join([top, *rest][:depth])
            spec = importlib.machinery.PathFinder.find_spec(name, list(spec.submodule_search_locations))
    except (ImportError, ValueError, AttributeError):
        return None
    return str(Path(spec.origin)) if spec is not None and spec.origin else None
