"""A recipe's loggers alone, to send a past run's records again. What it trains may no longer be there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dpotrain.plugin.api import Logger, Selection, kind_of
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.recipe.load import read_document
from dpotrain.recipe.sections.evaluation import EvaluationSection
from dpotrain.recipe.sections.training import TrainingSection
from dpotrain.recipe.tables import TableReader

LOGGERS = "loggers"


@dataclass(frozen=True, slots=True)
class LoggersOfRecipe:
    """The loggers, constructed and checked, and what the recipe says of seed, steps and evaluations."""

    loggers: tuple[Logger, ...]
    plugins: PluginManager
    seed: int
    training: TrainingSection
    evaluation: EvaluationSection


def load_loggers(path: Path, overrides: Sequence[str] = (), only: Sequence[str] = ()) -> LoggersOfRecipe:
    """Read the loggers of a recipe, or ``only`` those of these names, with default options where it has them not.

    ``overrides`` are texts as ``--set`` takes them. Raises RecipeError with everything that is wrong.
    """
    tree = read_document(path, overrides)
    if only:
        tables = tree.document.get(LOGGERS)
        listed = tables if isinstance(tables, list) else []
        chosen = [table for table in listed if isinstance(table, dict) and table.get("use") in only]
        missing = [name for name in dict.fromkeys(only) if all(table.get("use") != name for table in chosen)]
        tree.merge({LOGGERS: [*chosen, *({"use": name} for name in missing)]}, "--to", is_file=False)
    reader = TableReader(tree, None)
    training, evaluation = reader.section("training"), reader.section("evaluation")
    parts = {LOGGERS: reader.components(kind_of(Logger))}
    reader.check(parts)
    reader.problems.raise_if_any()
    loggers = Selection(parts=parts, document={}).loggers
    return LoggersOfRecipe(loggers, reader.plugins, reader.top.seed, training, evaluation)
