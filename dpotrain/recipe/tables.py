"""From the tables of a document to the core's sections and the components that plugins offer."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from pydantic import BaseModel

from dpotrain.core.errors import DataError, DpotrainError, PluginError, RecipeError
from dpotrain.plugin.api import Component
from dpotrain.plugin.api.kinds import Kind
from dpotrain.plugin.api.nested import PLACE, has_nested, nested
from dpotrain.plugin.api.returns import WrongReturnError
from dpotrain.plugin.describe.expected import Expectations
from dpotrain.plugin.runtime.failures import failure
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.recipe.files import EXTENDS
from dpotrain.recipe.foreign_keys import foreign_hint
from dpotrain.recipe.merge import Place, Tree
from dpotrain.recipe.mixture import AUTO, SOURCES
from dpotrain.recipe.plugins import choose_plugins
from dpotrain.recipe.problems import Problems
from dpotrain.recipe.sections.catalogue import CORE_SECTIONS, OPTIONAL_SECTIONS, core_keys, tables_of
from dpotrain.recipe.sections.run import TopLevel
from dpotrain.recipe.validate import unknown_at_top, validate


class TableReader:
    """Reads one document table by table. Problems are collected, not raised."""

    def __init__(self, tree: Tree, plugins: PluginManager | None) -> None:
        self.tree, self.problems = tree, Problems(tree.origin)
        self.top = self._top()
        self.plugins = choose_plugins(self.top, plugins, self.problems)
        self.kinds = self.plugins.kinds
        self._check_names()

    def section(self, name: str) -> Any:
        """Return a table of the core as its model, None where it is wrong, or is optional and left out."""
        optional = name in OPTIONAL_SECTIONS
        table = self.tree.document.get(name, False if optional else {})
        if optional and table is False:
            return None
        if not isinstance(table, dict):
            hint = ", or false for none" if optional else ""
            meant = self._meant(kind, table) if (kind := self.kinds.tables.get(name)) else ""
            self.problems.add((name,), (), f"expected a table [{name}]{hint}{meant}")
            return None
        model = CORE_SECTIONS[name]
        if name in self.kinds.tables:  # the other keys are the component's
            table = {key: value for key, value in table.items() if key in model.model_fields}
        inside = self._inside(model, table, (name,))
        if inside is None:
            return None
        table, components = inside
        say = partial(self.problems.add, (name,))
        return validate(model, table, say, tables_with=self._tables_with, components=components)

    def components(self, kind: Kind) -> tuple[Component, ...]:
        """Return the components of a kind that the recipe selects, without those that are wrong."""
        if kind.selected == "listed":
            return tuple(self._listed(kind))
        part = self._by_key(kind) if kind.selected == "key" else self._by_table(kind)
        return () if part is None else (part,)

    def check(self, parts: Mapping[str, Sequence[Component]]) -> None:
        """Run the checks of all components that could be constructed; ``parts`` are those of :class:`Selection`."""
        for table, found in parts.items():
            for index, part in enumerate(found):
                place: Place = tuple(int(key) if key.isdecimal() else key for key in table.split("."))
                place = (table, index) if table in self.kinds.listed else place
                for path, each in nested(part):
                    try:
                        each.check()
                    except Exception as error:
                        self.add_failure((*place, *path), type(each), "check", error)

    def add_failure(self, table: Place, component: type[Component], phase: str, error: Exception) -> None:
        """Collect what a component raised: in its own words, or as a failure of its plugin."""
        kind: type[DpotrainError] = DataError if isinstance(error, DataError) else RecipeError
        text = str(error)
        if not isinstance(error, DpotrainError) or isinstance(error, WrongReturnError):
            text = failure(self.plugins.label(component), phase, error, component.__module__)
            kind = PluginError
        self.problems.add(table, (), text, kind=kind)

    def _top(self) -> TopLevel:
        """Return the keys before any table."""
        document = self.tree.document
        values = {key: document[key] for key in TopLevel.model_fields if key in document}
        top = validate(TopLevel, values, partial(self.problems.add, ()))
        return TopLevel.model_validate({}) if top is None else top

    def _check_names(self) -> None:
        """Collect keys and tables that do not exist."""
        tables = tables_of(self.kinds)
        known = [*TopLevel.model_fields, EXTENDS, *sorted(tables)]
        for key, value in self.tree.document.items():
            if key in tables or key in TopLevel.model_fields:
                continue
            if isinstance(value, dict | list):
                text = "\n".join([unknown_at_top(key, known, "table"), *self.plugins.missing("declare")])
                self.problems.add((key,), (), text)
            else:
                self.problems.add((), (key,), unknown_at_top(key, known, "key"))

    def _tables_with(self, key: str) -> list[str]:
        """Return the tables that have a key: the core's, and those of the components that the recipe selects."""
        found = [name for name, section in CORE_SECTIONS.items() if key in section.model_fields]
        for name, kind in self.kinds.tables.items():
            table = self.tree.document.get(name, {})
            use = table.get("use", kind.default_use) if isinstance(table, dict) else None
            chosen = (each for each in self.plugins.components(kind.component) if each.name == use)
            found += [name for each in chosen if key in each.Options.model_fields and name not in found]
        return found

    def _by_table(self, kind: Kind) -> Component | None:
        """Return the component that a table selects, None for a table that is left out or wrong."""
        name, optional = kind.table, kind.selected == "optional"
        table = self.tree.document.get(name, None if kind.default_use is None else {})
        if optional and (table is None or table is False):
            return None
        if table is None:
            self.problems.add((name,), (), f"missing; {self._choices(kind)}")
            return None
        if not isinstance(table, dict):
            if name not in CORE_SECTIONS:  # whose section reports it
                hint = ", or false for none" if optional else ""
                self.problems.add((name,), (), f"expected a table [{name}]{hint}{self._meant(kind, table)}")
            return None
        shared = core_keys(name)
        own = {key: value for key, value in table.items() if key not in shared}
        if table.get(SOURCES):
            self._refuse_beside_sources(name, own)
            return None
        return self._component((name,), own, kind, also_known=shared)

    def _refuse_beside_sources(self, name: str, own: Iterable[str]) -> None:
        """Collect keys of one source in a table that lists several."""
        listed = f"[[{name}.{SOURCES}]]"
        for key in own:
            if key == "use":
                text = f"each of {listed} has a use of its own; remove this one"
            elif hint := foreign_hint(key):
                text = f"there is no such key{hint}"
            else:
                text = f"there is no such key for all sources; write it into the {listed} that it belongs to"
            self.problems.add((name,), (key,), text)

    def _by_key(self, kind: Kind) -> Component | None:
        """Return the component that a key of another kind's table names, None for ``auto`` and where it is wrong."""
        name, _, key = kind.table.partition(".")
        table = self.tree.document.get(name)
        chosen = table.get(key, AUTO) if isinstance(table, dict) else AUTO
        if chosen == AUTO:
            # All of them are asked, and which one answers would depend on which of two is left out.
            for text in self.plugins.duplicates_of(kind.component):
                self.problems.add((name,), (key,), text)
            return None
        if isinstance(chosen, str):
            return self._component((name,), {"use": chosen}, kind, key=key)
        if isinstance(chosen, dict):
            return self._component((name, key), chosen, kind)
        return None  # the section reports it

    def _listed(self, kind: Kind) -> list[Component]:
        """Return the components that a list of tables selects, without those that are wrong."""
        name, tables = kind.table, self.tree.document.get(kind.table, [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            self.problems.add((name,), (), f"expected tables that each begin with [[{name}]]")
            return []
        found = [self._component((name, index), table, kind) for index, table in enumerate(tables)]
        return [part for part in found if part is not None]

    def _component(
        self, at: Place, table: dict[str, Any], kind: Kind, also_known: Iterable[str] = (), key: str = "use"
    ) -> Component | None:
        """Return the component of one table, whose ``use`` picks it and whose other keys are its options."""
        use = table.get("use", kind.default_use)
        if not isinstance(use, str):
            got = "missing" if use is None else "expected a name in quotes"
            self.problems.add(at, (key,), f"{got}; {self._choices(kind)}")
            return None
        try:
            chosen = self.plugins.find(kind.component, use)
        except PluginError as error:  # there is none, or more than one
            self.problems.add(at, (key,), str(error))
            return None
        at = at if key == "use" else (*at, key)  # `format = "name"` stands for a table of its own
        forgotten = self.tree.stale_keys(at) - chosen.Options.model_fields.keys()
        values = {name: value for name, value in table.items() if name != "use" and name not in forgotten}
        phase = "Options"
        try:
            owner, say = f"{use} ({self.plugins.owner(chosen).origin})", partial(self.problems.add, at)
            inside = self._inside(chosen.Options, values, at)
            if inside is None:
                return None
            values, components = inside
            options = validate(
                chosen.Options, values, say, owner=owner, also_known=also_known, components=components
            )
            if options is None:
                return None
            phase = "__init__"
            made = chosen(options)
            if not hasattr(made, "options"):
                raise WrongReturnError("__init__ does not call super().__init__(options)")
            return made
        except Exception as error:
            self.add_failure(at, chosen, phase, error)
            return None

    def _meant(self, kind: Kind, value: Any) -> str:
        """Return the key that a text in a table's place is probably meant for: ``model.name``, ``loss.use``."""
        if not isinstance(value, str):
            return ""
        offered = self.plugins.components(kind.component)
        if value in self.plugins.names(kind.component):
            return f'; did you mean {kind.table}.use = "{value}"?'
        named = any("name" in each.Options.model_fields for each in offered)
        return f'; did you mean {kind.table}.name = "{value}"?' if named else f"; {self._choices(kind)}"

    def _inside(
        self, model: type[BaseModel], values: dict[str, Any], at: Place
    ) -> tuple[dict[str, Any], list[Component]] | None:
        """Construct the components that tables inside a component's table pick.

        Returns the values with a number in place of each, and the components by number; None where one is wrong.
        """
        if not has_nested(model):
            return values, []
        expectations = Expectations(model)
        values, together = expectations.apart(copy.deepcopy(values))
        found: list[Component | None] = []
        for path, kind_name in list(expectations.components(values)):
            kind = self.kinds.called(kind_name)
            table = _at(values, path)
            table = {"use": table} if isinstance(table, str) else table
            address = path[:-1] if path in together else path
            found.append(self._component((*at, *address), table, kind, also_known=together.get(path, ())))
            _at(values, path[:-1])[path[-1]] = {PLACE: len(found) - 1}
        components = [part for part in found if part is not None]
        return (values, components) if len(components) == len(found) else None

    def _choices(self, kind: Kind) -> str:
        """Return what ``use`` can pick, for messages."""
        names = ", ".join(f'"{name}"' for name in self.plugins.names(kind.component))
        words = kind.component.kind
        return f"use picks the {words}: {names}" if names else f"and no plugin offers a {words}"


def _at(values: Any, path: Place) -> Any:
    for key in path:
        values = values[key]
    return values
