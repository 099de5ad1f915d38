"""The plugin manager: the installed plugins, their components, and why some failed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeVar

from dpotrain.core.errors import PluginError, did_you_mean, short
from dpotrain.plugin.api import KINDS, Component, DatasetFormatter, Selection, kind_of
from dpotrain.plugin.api.kinds import CORE_KINDS, Kinds
from dpotrain.plugin.runtime.declared_kinds import with_kinds
from dpotrain.plugin.runtime.plugin import Plugin, by_hand, imported, installed, loaded

C = TypeVar("C", bound=Component)


Status = Literal["active", "unused", "blocked", "failed"]


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """A plugin as ``dpotrain plugins`` shows it; plain data."""

    name: str
    offers: dict[str, list[str]]
    """Names of components by kind: ``{"loss": ["dpo", "ipo"]}``."""
    events: list[str]
    """The run events that its module or its components subscribe to."""
    distribution: str | None
    version: str | None
    file: str | None
    status: Status
    reason: str
    """Why it is blocked or failed; empty otherwise."""
    interface: int | None = None
    """The version of the plugin interface that it was written for, where it says so."""
    notes: list[str] = field(default_factory=list)
    """What its author should fix although it works."""
    kinds: dict[str, str] = field(default_factory=dict)
    """The kinds of component that it declares, with their tables: ``{"judge": "judges"}``."""
    commands: list[str] = field(default_factory=list)
    """The commands that its distribution adds to the command line (see :mod:`dpotrain.plugin.describe.listing`)."""

    def as_json(self) -> dict[str, Any]:
        """Return a plain mapping."""
        return asdict(self)


class PluginManager:
    """A fixed set of plugins, loaded and checked, each isolated from the failures of others."""

    def __init__(self, plugins: Iterable[Plugin]) -> None:
        self.plugins: tuple[Plugin, ...] = tuple(plugins)
        self.kinds = _kinds(self.plugins)
        """The kinds that recipes can select: the core's, and those that these plugins declare."""
        self._owners: dict[type[Component], Plugin] = {}
        self._catalogue: dict[tuple[type[Component], str], list[tuple[Plugin, type[Component]]]] = {}
        for plugin in self.plugins:
            for component in plugin.components:
                if (kind := kind_of(component)) not in self.kinds:
                    continue  # a recipe blocks the plugin that declares the kind
                self._owners.setdefault(component, plugin)
                key = kind.component, component.name
                self._catalogue.setdefault(key, []).append((plugin, component))

    @classmethod
    def from_entry_points(cls, *, extra: Iterable[object] = (), block: Sequence[str] = ()) -> PluginManager:
        """Load every installed plugin in group ``dpotrain``, and ``extra`` modules or objects with hooks.

        Plugins that ``block`` names (themselves or their distribution) are not even imported.
        """
        return cls(
            _loaded(
                _blocked(plugin) if any(map(plugin.called, block)) else imported(plugin)
                for plugin in [*installed(), *map(by_hand, extra)]
            )
        )

    @classmethod
    def of(cls, *plugins: object) -> PluginManager:
        """Load these modules or objects and nothing that is installed; for tests of a plugin by itself."""
        return cls(_loaded(imported(by_hand(plugin)) for plugin in plugins))

    def blocking(self, names: Sequence[str]) -> PluginManager:
        """Return a manager in which the plugins that ``names`` means offer nothing."""
        return PluginManager(
            _blocked(each) if any(map(each.called, names)) else each for each in self.plugins
        )

    @property
    def failed(self) -> tuple[Plugin, ...]:
        """The plugins that could not be loaded or were refused, with their reasons."""
        return tuple(plugin for plugin in self.plugins if plugin.failed)

    def missing(self, may: str) -> list[str]:
        """Return a message for each plugin that failed or is blocked, and ``may`` "offer" what was not found."""
        return [
            f"{plugin.label}, which may {may} it, "
            + ("is blocked" if plugin.blocked else f"failed: {plugin.reason}")
            for plugin in self.plugins
            if plugin.failed or plugin.blocked
        ]

    @property
    def warnings(self) -> list[str]:
        """Warnings about plugins that failed, for a recipe that does not need them."""
        return [f"{plugin.label} failed and is not used: {plugin.reason}" for plugin in self.failed]

    def names(self, kind: type[Component]) -> list[str]:
        """Return the names that a recipe can use for a kind, in the catalogue's order."""
        return [name for (of, name) in self._catalogue if of is kind]

    def components(self, kind: type[C]) -> list[type[C]]:
        """Return the classes of a kind in the catalogue's order; those with a duplicate name are left out."""
        return [
            found[0][1]  # type: ignore[misc]  # the catalogue's key is the kind
            for (of, _), found in self._catalogue.items()
            if of is kind and len(found) == 1
        ]

    def formatters(self) -> list[type[DatasetFormatter]]:
        """Return the formatters that ``format = "auto"`` asks, in order."""
        return self.components(DatasetFormatter)

    def find(self, kind: type[C], name: str) -> type[C]:
        """Return the component of that kind and name.

        Raises PluginError where there is none (with the nearest known name, and the plugins that might offer
        it but failed or are blocked) or more than one.
        """
        found = self._catalogue.get((kind, name), [])
        if len(found) == 1:
            return found[0][1]  # type: ignore[return-value]
        if found:
            raise PluginError(self._duplicate(kind, name))
        raise PluginError(self._unknown(kind, name))

    def owner(self, component: type[Component]) -> Plugin:
        """Return the plugin that offers a component class; one registered by hand if no plugin does."""
        if component in self._owners:
            return self._owners[component]
        return Plugin(name=component.__module__, module=component)

    def offers(self, component: type[Component]) -> bool:
        """Whether a plugin offers this class: the core has components of its own, and a class may be made by hand."""
        return component in self._owners

    def label(self, component: Component | type[Component]) -> str:
        """Return a component's full name for messages: ``loss "dpo" of plugin "losses" (dpotrain 0.1.0)``."""
        owner = self.owner(component if isinstance(component, type) else type(component))
        return f'{component.kind} "{component.name}" of {owner.label}'

    def duplicates_of(self, kind: type[Component]) -> list[str]:
        """Return a message for each name of a kind that more than one plugin offers."""
        return [
            self._duplicate(kind, name)
            for (of, name), found in self._catalogue.items()
            if of is kind and len(found) > 1
        ]

    @property
    def called(self) -> list[str]:
        """Names of plugins and of their distributions: what ``block`` in a recipe can name."""
        named = {name for plugin in self.plugins for name in (plugin.name, plugin.distribution) if name}
        return sorted(named)

    def required(self, requires: Sequence[str]) -> tuple[Plugin, ...]:
        """Return the plugins of the distributions that a recipe's ``requires`` names, failed and blocked ones too."""
        if not requires:
            return ()
        from packaging.utils import canonicalize_name  # 20 ms that few recipes need

        from dpotrain.plugin.runtime.requirements import required_distributions

        names = required_distributions(requires)
        return tuple(p for p in self.plugins if p.distribution and canonicalize_name(p.distribution) in names)

    def active(self, selection: Selection) -> tuple[Plugin, ...]:
        """Return the plugins that a recipe selects: by a component, by a component's kind, or by ``requires``.

        One that was registered by hand and offers no component was given for its run events, and is selected, too.
        """
        used = {id(self.owner(type(component))) for component in selection.components}
        kinds = {kind_of(type(component)) for component in selection.components}
        used |= {id(plugin) for plugin in self.plugins if not kinds.isdisjoint(plugin.kinds)}
        used |= {id(p) for p in self.plugins if p.given and p.events and not p.components}
        used |= {id(p) for p in self.required(selection.requires) if not (p.failed or p.blocked)}
        return tuple(plugin for plugin in self.plugins if id(plugin) in used)

    def provenance(self, selection: Selection) -> list[dict[str, Any]]:
        """Return the active plugins and the components that the recipe selects of each, for run folder and loggers."""
        selected: dict[int, list[str]] = {}
        for component in selection.components:
            names = selected.setdefault(id(self.owner(type(component))), [])
            names.append(f"{component.kind} {component.name}")
        return [
            {
                "name": plugin.name,
                "distribution": plugin.distribution,
                "version": plugin.version,
                "interface": plugin.interface,
                "selected": selected.get(id(plugin), []),
                "subscribes": list(plugin.events),
            }
            for plugin in self.active(selection)
        ]

    def infos(self, selection: Selection | None = None) -> list[PluginInfo]:
        """Describe every plugin; without a recipe none is active."""
        active = () if selection is None else self.active(selection)
        return [self._info(plugin, plugin in active) for plugin in self.plugins]

    def _info(self, plugin: Plugin, active: bool) -> PluginInfo:
        offers: dict[str, list[str]] = {}
        for component in plugin.components:
            offers.setdefault(component.kind, []).append(component.name)
        twice = [
            self._duplicate(kind_of(component).component, component.name)
            for component in plugin.components
            if len(self._catalogue.get((kind_of(component).component, component.name), ())) > 1
        ]
        failed = plugin.failed or bool(twice)
        status: Status = (
            "blocked" if plugin.blocked else "failed" if failed else "active" if active else "unused"
        )
        return PluginInfo(
            name=plugin.name,
            offers=offers,
            kinds={kind.component.kind: kind.table for kind in plugin.kinds},
            events=list(plugin.events),
            distribution=plugin.distribution,
            version=plugin.version,
            file=plugin.file,
            status=status,
            reason=plugin.reason or "\n".join(twice),
            interface=plugin.interface,
            notes=list(plugin.notes),
        )

    def _duplicate(self, kind: type[Component], name: str) -> str:
        owners = [owner for owner, _ in self._catalogue[kind, name]]
        if len({id(owner) for owner in owners}) == 1:
            return f'{kind.kind} "{name}" is offered twice by {owners[0].label}'
        labels = " and ".join(owner.label for owner in owners)
        remedy = f'block = ["{owners[-1].name}"] leaves one of them out'
        return f'{kind.kind} "{name}" is offered by {labels}; {remedy}'

    def _unknown(self, kind: type[Component], name: str) -> str:
        names = self.names(kind)
        lines = [f'there is no {kind.kind} "{short(name)}"']
        if near := did_you_mean(name, names):
            lines[0] += near
        elif names:
            known = ", ".join(f'"{each}"' for each in names)
            lines[0] += f"; there {'is' if len(names) == 1 else 'are'} {known}"
        else:
            lines[0] += f"; no plugin offers {'an' if kind.kind[0] in 'aeiou' else 'a'} {kind.kind}"
        return "\n".join([*lines, *self.missing("offer")])


def _kinds(plugins: Iterable[Plugin]) -> Kinds:
    declared = [kind for plugin in plugins for kind in plugin.kinds]
    return Kinds([*KINDS, *declared]) if declared else CORE_KINDS


def _loaded(plugins: Iterable[Plugin]) -> list[Plugin]:
    """Return imported plugins with the kinds that they declare, and then with the components that they offer."""
    found = with_kinds(list(plugins))
    kinds = _kinds(found)
    return [each if each.failed or each.blocked else loaded(each, kinds) for each in found]


def _blocked(plugin: Plugin) -> Plugin:
    return replace(plugin.without_components(), blocked=True, failed=False, reason="blocked by the recipe")
