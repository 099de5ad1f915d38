"""The model parts of a past run's recipe alone: its data may no longer be there, nor its loggers installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dpotrain.plugin.api import Adapter, ModelLoader, Quantizer, Selection, kind_of
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.recipe.load import read_document
from dpotrain.recipe.sections import TrainingSection
from dpotrain.recipe.tables import TableReader

_KINDS = (ModelLoader, Quantizer, Adapter)


def load_model_parts(
    path: Path, overrides: Sequence[str] = ()
) -> tuple[Selection, TrainingSection, PluginManager]:
    """Read loader, quantizer and adapter of a recipe, constructed and checked, and how the run computes.

    ``overrides`` are texts as ``--set`` takes them. Raises RecipeError with everything that is wrong.
    """
    reader = TableReader(read_document(path, overrides), None)
    training = reader.section("training")
    parts = {kind.table: reader.components(kind) for kind in map(kind_of, _KINDS)}
    reader.check(parts)
    reader.problems.raise_if_any()
    return Selection(parts=parts, document={}), training, reader.plugins
