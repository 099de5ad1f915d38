"""The model parts of a past run's recipe alone: its data may no longer be there, nor its loggers installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dpotrain.plugin.api import Adapter, ModelLoader, Quantizer, Selection, kind_of
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.recipe.load import read_document
from dpotrain.recipe.sections.data import DataSection
from dpotrain.recipe.sections.training import TrainingSection
from dpotrain.recipe.tables import TableReader
from dpotrain.recipe.validate import validate

_KINDS = (ModelLoader, Quantizer, Adapter)


@dataclass(frozen=True, slots=True)
class ModelParts:
    """What it takes to load a model as a run did, and to write prompts for it."""

    selection: Selection
    """Loader, quantizer and adapter."""
    training: TrainingSection
    template_arguments: Mapping[str, Any]
    """Those of ``[data]``."""
    plugins: PluginManager


def load_model_parts(path: Path, overrides: Sequence[str] = ()) -> ModelParts:
    """Read loader, quantizer and adapter of a recipe, constructed and checked, and how the run computes.

    ``overrides`` are texts as ``--set`` takes them. Raises RecipeError with everything that is wrong.
    """
    reader = TableReader(read_document(path, overrides), None)
    training = reader.section("training")
    table = reader.tree.document.get("data")
    key = "template_arguments"
    # The rest of [data] is not needed.
    of_data = {key: table[key]} if isinstance(table, dict) and key in table else {}
    data = validate(DataSection, of_data, partial(reader.problems.add, ("data",)))
    parts = {kind.table: reader.components(kind) for kind in map(kind_of, _KINDS)}
    reader.check(parts)
    reader.problems.raise_if_any()
    assert data is not None  # or there are problems
    return ModelParts(Selection(parts=parts, document={}), training, data.template_arguments, reader.plugins)
