"""From a TOML file and overrides to a checked :class:`Recipe`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from packaging.utils import canonicalize_name
from pydantic import BaseModel, SecretStr

from dpotrain.core.errors import DataError, DpotrainError, PluginError, RecipeError, did_you_mean, short
from dpotrain.core.masking import keep_secret
from dpotrain.plugin.api import Component, DatasetFormatter, Exporter, Loss, Metric, Quantizer
from dpotrain.plugin.api.kinds import (
    COMPONENT_TABLES,
    DEFAULT_USE,
    KINDS,
    LISTED_TABLES,
    OPTIONAL_TABLES,
    Kind,
)
from dpotrain.plugin.runtime.failures import failure
from dpotrain.plugin.runtime.metric_names import faults
from dpotrain.plugin.runtime.requirements import required_distributions, unmet
from dpotrain.recipe.document import document_of
from dpotrain.recipe.files import EXTENDS, read_layers
from dpotrain.recipe.merge import Place, Tree
from dpotrain.recipe.overrides import override_layer
from dpotrain.recipe.problems import Problems
from dpotrain.recipe.recipe import Recipe
from dpotrain.recipe.sections import CORE_SECTIONS, DataSection, ReferenceSection, Section, TopLevel
from dpotrain.recipe.validate import unknown, validate
from dpotrain.recipe.values import shown_key

if TYPE_CHECKING:
    from dpotrain.plugin.runtime.manager import PluginManager

C = TypeVar("C", bound=Component)
M = TypeVar("M", bound=BaseModel)

AUTO = "auto"


def load_recipe(
    path: str | Path,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    plugins: PluginManager | None = None,
) -> Recipe:
    """Read a recipe, check all of it, and construct the components it selects.

    Args:
        path: the TOML file.
        overrides: ``"table.key=value"`` texts as ``--set`` takes them, or a mapping of dotted keys to values.
        plugins: the plugins to choose from; the installed ones unless given.

    Raises:
        RecipeError: with everything that is wrong, each error with file, table, key and what was expected.
        DataError: if nothing but the data is wrong.
    """
    path = Path(path)
    return Reader(path, lay_out(path, overrides), plugins).read()


def lay_out(path: Path, overrides: Sequence[str] | Mapping[str, Any]) -> Tree:
    """Return the document of a file, of what it extends, and of overrides, one laid over the other.

    Raises:
        RecipeError: one of them cannot be read.
    """
    tree = Tree(root=str(path))
    for origin, document in read_layers(path):
        tree.lay(document, origin)
    origin, document = override_layer(overrides)
    if EXTENDS in document:
        raise RecipeError(f"{origin}: extends: only a file can extend another; it is not overridden")
    tree.lay(document, origin, is_file=False)
    return tree


class Reader:
    """Checks one document table by table; problems are collected, not raised."""

    def __init__(self, path: Path, tree: Tree, plugins: PluginManager | None) -> None:
        self.path, self.tree, self.problems = path, tree, Problems()
        self.top = self.read_top()
        self.plugins = self.read_plugins(plugins)

    def read(self) -> Recipe:
        """Return the recipe, or raise everything that was found."""
        sections = {name: self.section(name, model) for name, model in CORE_SECTIONS.items()}
        parts = {kind.table: self.selected(kind) for kind in KINDS}
        self.check_quantizer(_one(parts, Quantizer))
        self.check_without_effect(sections, _one(parts, Loss))
        self.check_exporters(_all(parts, Exporter))
        self.check_metrics(_all(parts, Metric))
        self.check_components(parts)
        self.problems.raise_if_any()
        return Recipe(
            seed=self.top.seed,
            **sections,
            parts=parts,
            plugins=self.plugins,
            document=document_of(self.top, sections, parts),
            path=self.path,
        )

    # The top --------------------------------------------------------------------------------------

    def read_top(self) -> TopLevel:
        """Return the keys at the top, and note every key and table that is nobody's."""
        tables = {*CORE_SECTIONS, *COMPONENT_TABLES, *LISTED_TABLES}
        known = [*TopLevel.model_fields, EXTENDS, *sorted(tables)]
        values = {}
        for key, value in self.tree.document.items():
            if key in TopLevel.model_fields:
                values[key] = value
            elif key not in tables and isinstance(value, dict | list):
                self.say((), (key,), unknown(key, known, "table"), table=key)
            elif key not in tables:
                self.say((), (key,), unknown(key, known, "key"))
        top = validate(TopLevel, values, lambda at, text: self.say((), at, text))
        return TopLevel.model_validate({}) if top is None else top

    def read_plugins(self, given: PluginManager | None) -> PluginManager:
        """Return the plugins without the blocked ones, and note requirements that are not met."""
        from dpotrain.plugin.runtime.manager import (
            PluginManager,  # it knows the core's sections, so it comes later
        )

        block, requires = self.top.block, self.top.requires
        plugins = PluginManager.from_entry_points(block=block) if given is None else given.blocking(block)
        for index, name in enumerate(block):
            if not any(plugin.called(name) for plugin in plugins.plugins):
                hint = did_you_mean(name, plugins.called) or "; see `dpotrain plugins`"
                self.say(
                    (),
                    ("block", index),
                    f'no plugin or distribution is called "{short(name)}"{hint}',
                    key="block",
                )
        for index, text in enumerate(requires):
            wrong = unmet(text)
            if wrong is not None:
                self.say((), ("requires", index), wrong, key="requires")
        required = required_distributions(requires)
        for plugin in plugins.plugins:
            if plugin.distribution is None or canonicalize_name(plugin.distribution) not in required:
                continue
            if plugin.failed:
                self.say((), ("requires",), f"{plugin.label} failed: {plugin.reason}")
            if plugin.blocked:
                self.say((), ("requires",), f"{plugin.label} is required, but block leaves it out")
        for text in plugins.duplicates:
            self.say((), (), text)
        return plugins

    # Tables of the core ---------------------------------------------------------------------------

    def section(self, name: str, model: type[Section]) -> Any:
        """Return a table of the core as its model, None where it is wrong."""
        table = self.tree.document.get(name, {})
        if not isinstance(table, dict):
            self.say((), (name,), f"expected a table [{name}]", key="", table=name)
            return None
        if name == "data":
            table = {key: value for key, value in table.items() if key in DataSection.model_fields}
        return validate(model, table, lambda at, text: self.say((name,), at, text), homes=self.homes)

    def homes(self, key: str) -> list[str]:
        """Return the tables that have a key: the core's, and those of the components that the recipe selects."""
        found = [name for name, section in CORE_SECTIONS.items() if key in section.model_fields]
        for name, kind in COMPONENT_TABLES.items():
            table = self.tree.document.get(name, {})
            use = table.get("use", DEFAULT_USE.get(name)) if isinstance(table, dict) else None
            chosen = (each for each in self.plugins.components(kind) if each.name == use)
            found += [name for each in chosen if key in each.Options.model_fields and name not in found]
        return found

    # Tables of components -------------------------------------------------------------------------

    def selected(self, kind: Kind) -> tuple[Component, ...]:
        """Return the components of a kind that the recipe selects, but for those that are wrong."""
        if kind.selected == "listed":
            return tuple(self.listed(kind.table, kind.component))
        part = self.formatter() if kind.selected == "key" else self.table(kind.table, kind.component)
        return () if part is None else (part,)

    def table(self, name: str, kind: type[C]) -> C | None:
        """Return the component that a table selects, None for a table that is left out or wrong."""
        table = self.tree.document.get(name, {} if name in DEFAULT_USE else None)
        if name in OPTIONAL_TABLES and (table is None or table is False):
            return None
        if table is None:
            self.say((), (name,), f"missing; {self.choices(kind)}", key="", table=name)
            return None
        if not isinstance(table, dict):
            if name != "data":  # which was refused as a table of the core
                hint = ", or false for none" if name in OPTIONAL_TABLES else ""
                self.say((), (name,), f"expected a table [{name}]{hint}", key="", table=name)
            return None
        core = list(DataSection.model_fields) if name == "data" else []
        return self.component((name,), {k: v for k, v in table.items() if k not in core}, kind, core)

    def formatter(self) -> DatasetFormatter | None:
        """Return the formatter that the recipe names, None for ``auto`` and where it is wrong."""
        data = self.tree.document.get("data")
        chosen = data.get("format", AUTO) if isinstance(data, dict) else AUTO
        kind: type[DatasetFormatter] = DatasetFormatter
        if chosen == AUTO:
            return None
        if isinstance(chosen, str):
            return self.component(("data",), {"use": chosen}, kind, key="format")
        if isinstance(chosen, dict):
            return self.component(("data", "format"), chosen, kind)
        return None  # which was refused as a key of the core

    def listed(self, name: str, kind: type[C]) -> list[C]:
        """Return the components that a list of tables selects, but for those that are wrong."""
        tables = self.tree.document.get(name, [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            self.say((), (name,), f"expected tables that each begin with [[{name}]]", key="", table=name)
            return []
        found = [self.component((name, index), table, kind) for index, table in enumerate(tables)]
        return [part for part in found if part is not None]

    def component(
        self, at: Place, table: dict[str, Any], kind: type[C], core: Sequence[str] = (), key: str = "use"
    ) -> C | None:
        """Return the component of one table, whose ``use`` picks it and whose other keys are its options."""
        use = table.get("use", DEFAULT_USE.get(str(at[-1])))
        if not isinstance(use, str):
            got = "missing" if use is None else "expected a name in quotes"
            self.say(at, (key,), f"{got}; {self.choices(kind)}")
            return None
        try:
            chosen = self.plugins.find(kind, use)
        except PluginError as error:
            if (
                str(error) not in self.plugins.duplicates
            ):  # which stop any recipe, and were noted with the plugins
                self.say(at, (key,), str(error))
            return None
        owner = f"{use} ({self.plugins.owner(chosen).origin})"
        at = at if key == "use" else (*at, key)  # `format = "name"` stands for a table of its own
        phase = "Options"
        try:
            options = validate(
                chosen.Options,
                {
                    name: value
                    for name, value in table.items()
                    if name != "use"
                    and (name in chosen.Options.model_fields or name not in self.tree.others(at))
                },
                lambda where, text: self.say(at, where, text),
                owner=owner,
                also_known=core,
            )
            if options is None:
                return None
            for value in dict(options).values():
                if isinstance(value, SecretStr):
                    keep_secret(value.get_secret_value())
            phase = "__init__"
            return chosen(options)
        except Exception as error:
            self.say_failure(at, chosen, phase, error)
            return None

    def choices(self, kind: type[Component]) -> str:
        """Say what ``use`` could pick."""
        names = ", ".join(f'"{name}"' for name in self.plugins.names(kind))
        return f"use picks the {kind.kind}: {names}" if names else f"and no plugin offers a {kind.kind}"

    # What only shows with several tables at hand --------------------------------------------------

    def check_quantizer(self, quantizer: Quantizer | None) -> None:
        """Refuse quantized weights with nothing to train beside them."""
        adapter = self.tree.document.get("adapter", False)
        if quantizer is None or adapter is not False or quantizer.trains_all_weights:
            return
        self.say(
            ("quantizer",),
            (),
            f"{quantizer.name} weights cannot be trained themselves, and there is no [adapter] to train "
            "beside them\neither add an [adapter], or remove [quantizer] (quantizer = false) to train all weights",
        )

    def check_exporters(self, exporters: Sequence[Exporter]) -> None:
        """Refuse exporters of adapters where all weights are trained."""
        if self.tree.document.get("adapter", False) is not False:
            return
        for index, exporter in enumerate(exporters):
            if exporter.needs_adapter:
                text = f"{exporter.name} needs an [adapter], and without one final/ is a whole model; leave it out"
                self.say(("exporters", index), (), text)

    def check_metrics(self, metrics: Sequence[Metric]) -> None:
        """Refuse measures that records could not name."""
        for index, metric in enumerate(metrics):
            try:
                metric.measures  # noqa: B018 - a property of a plugin's own may raise
            except Exception as error:
                self.say_failure(("metrics", index), type(metric), "measures", error)
                return
        for index, text in faults(metrics, self.plugins):
            self.say(("metrics", index), (), text)

    def check_without_effect(self, sections: Mapping[str, Any], loss: Loss | None) -> None:
        """Refuse keys that another table keeps from doing anything."""
        data, evaluation, reference = (sections[name] for name in ("data", "evaluation", "reference"))
        if data and evaluation and evaluation.every and not (data.eval_split or data.eval_fraction):
            text = "there are no held-out pairs to evaluate on; set data.eval_fraction or data.eval_split"
            self.say(("evaluation",), ("every",), text)
        if reference and reference.store and reference.when == "live":
            self.say(("reference",), ("store",), 'with when = "live" nothing is stored; keep one of the two')
        if (
            loss
            and reference
            and not loss.needs_reference
            and reference.model_dump() != ReferenceSection.model_validate({}).model_dump()
        ):
            self.say(("reference",), (), f"loss {loss.name} needs no reference; leave the table out")

    def check_components(self, parts: Mapping[str, Sequence[Component]]) -> None:
        """Ask every component that could be constructed what it knows to be wrong."""
        for kind in KINDS:
            for index, part in enumerate(parts.get(kind.table, ())):
                place = (kind.table, index) if kind.selected == "listed" else tuple(kind.table.split("."))
                try:
                    part.check()
                except Exception as error:
                    self.say_failure(place, type(part), "check", error)

    def say_failure(self, at: Place, component: type[Component], phase: str, error: Exception) -> None:
        """Note what a component raised: in its own words, or as a fault of its plugin."""
        kind: type[DpotrainError] = DataError if isinstance(error, DataError) else RecipeError
        text = str(error)
        if not isinstance(error, DpotrainError):
            kind, text = PluginError, failure(self.plugins.label(component), phase, error)
        self.problems.add(self.tree.origin(*at), ".".join(map(str, at)), "", text, kind)

    def say(
        self, at: Place, where: Place, text: str, *, key: str | None = None, table: str | None = None
    ) -> None:
        """Note a problem of the value at ``at`` + ``where``; its table and key are these two unless given."""
        shown_table = _dotted(at) if table is None else shown_key(table)
        if key is None:
            key = "" if table is not None else _dotted(where)
        self.problems.add(self.tree.origin(*at, *where), shown_table, key, text)


def _all(parts: Mapping[str, Sequence[Component]], kind: type[C]) -> list[C]:
    return [part for each in parts.values() for part in each if isinstance(part, kind)]


def _one(parts: Mapping[str, Sequence[Component]], kind: type[C]) -> C | None:
    return next(iter(_all(parts, kind)), None)


def _dotted(place: Place) -> str:
    return ".".join(shown_key(str(part)) for part in place)
