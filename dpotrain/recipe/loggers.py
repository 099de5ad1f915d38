"""As much of a recipe as it takes to send a run's records once more: its loggers, without the rest being checked.

The model or the data that a past run was about may have gone since, and so may the plugin of its loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dpotrain.plugin.api import Logger
from dpotrain.recipe.load import Reader, lay_out
from dpotrain.recipe.sections import TrainingSection

if TYPE_CHECKING:
    from dpotrain.plugin.runtime.manager import PluginManager

LOGGERS = "loggers"


@dataclass(frozen=True, slots=True)
class LoggersOfRecipe:
    """The loggers, constructed and checked, and what they are told of the steps."""

    loggers: tuple[Logger, ...]
    plugins: PluginManager
    seed: int
    training: TrainingSection


def load_loggers(path: Path, overrides: Sequence[str] = (), only: Sequence[str] = ()) -> LoggersOfRecipe:
    """Read the loggers of a recipe.

    Args:
        path: the TOML file.
        overrides: ``"table.key=value"`` texts as ``--set`` takes them.
        only: names of loggers. The recipe's of other names are left out, and one that the recipe does not have is
            taken with its default options. Empty: the recipe's.

    Raises:
        RecipeError: with everything that is wrong.
    """
    tree = lay_out(path, overrides)
    if only:
        tables = tree.document.get(LOGGERS)
        known = [table for table in tables if isinstance(table, dict)] if isinstance(tables, list) else []
        chosen = [table for table in known if table.get("use") in only]
        missing = [name for name in dict.fromkeys(only) if all(table.get("use") != name for table in chosen)]
        tree.lay({LOGGERS: [*chosen, *({"use": name} for name in missing)]}, "--to", is_file=False)
    reader = Reader(path, tree, None)
    training = reader.section("training", TrainingSection)
    loggers = reader.listed(LOGGERS, Logger)
    reader.check_components({LOGGERS: loggers})
    reader.problems.raise_if_any()
    return LoggersOfRecipe(tuple(loggers), reader.plugins, reader.top.seed, training)
