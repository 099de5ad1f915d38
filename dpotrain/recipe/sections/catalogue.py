"""The tables that belong to the core, by name, and the order of all tables."""

from __future__ import annotations

from pydantic import BaseModel

from dpotrain.plugin.api.kinds import CORE_KINDS, Kinds
from dpotrain.recipe.sections.base import Section
from dpotrain.recipe.sections.data import DataSection
from dpotrain.recipe.sections.evaluation import EvaluationSection
from dpotrain.recipe.sections.parallel import ParallelSection
from dpotrain.recipe.sections.reference import ReferenceSection
from dpotrain.recipe.sections.run import CheckpointsSection, LoggingSection, RunSection
from dpotrain.recipe.sections.samples import SamplesSection
from dpotrain.recipe.sections.training import TrainingSection

#: The core's tables by name; those without a required key can be left out of a recipe.
CORE_SECTIONS: dict[str, type[Section]] = {
    "run": RunSection,
    "data": DataSection,
    "reference": ReferenceSection,
    "training": TrainingSection,
    "parallel": ParallelSection,
    "evaluation": EvaluationSection,
    "samples": SamplesSection,
    "checkpoints": CheckpointsSection,
    "logging": LoggingSection,
}

#: Those that are None where a recipe leaves them out or says false.
OPTIONAL_SECTIONS = frozenset({"samples"})


def core_keys(table: str) -> frozenset[str]:
    """Return the keys of a table that are the core's: of a component's table, those that do not belong to it."""
    return frozenset(CORE_SECTIONS[table].model_fields) if table in CORE_SECTIONS else frozenset()


_FIRST = [
    "run",
    "model",
    "quantizer",
    "adapter",
    "data",
    "reference",
    "loss",
    "training",
    "parallel",
    "optimizer",
    "schedule",
]


def tables_of(kinds: Kinds) -> tuple[str, ...]:
    """Return all tables in the order of recipes and documents; tables of new kinds follow."""
    return tuple(dict.fromkeys([*_FIRST, *CORE_SECTIONS, *kinds.tables, *kinds.listed]))


#: Those of the core alone.
TABLES = tables_of(CORE_KINDS)


def required_tables() -> set[str]:
    """Return the names of the tables that every recipe must have."""
    components = CORE_KINDS.tables
    tables: dict[str, type[BaseModel]] = {
        name: components[name].component.Options for name in CORE_KINDS.default_use
    }
    tables |= {name: section for name, section in CORE_SECTIONS.items() if name not in OPTIONAL_SECTIONS}
    needed = {name for name, t in tables.items() if any(f.is_required() for f in t.model_fields.values())}
    return needed | (components.keys() - CORE_KINDS.optional - CORE_KINDS.default_use.keys())
