"""A recipe that is read, checked and resolved: everything that determines a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpotrain.plugin.api import DatasetFormatter, DatasetSource, Exporter, Selection
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.recipe.mixture import SourceTable
from dpotrain.recipe.sections.data import DataSection
from dpotrain.recipe.sections.evaluation import EvaluationSection
from dpotrain.recipe.sections.parallel import ParallelSection
from dpotrain.recipe.sections.reference import ReferenceSection
from dpotrain.recipe.sections.run import CheckpointsSection, LoggingSection, RunSection
from dpotrain.recipe.sections.samples import SamplesSection
from dpotrain.recipe.sections.training import TrainingSection


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """One source of rows with how they are read: that of ``[data]``, or one of ``[[data.sources]]``."""

    source: DatasetSource
    formatter: DatasetFormatter | None
    """None is ``format = "auto"``."""
    label: str
    """What it is called in a mixture; empty where it is the only one."""
    address: str
    """Its table, for messages: ``data`` or ``data.sources.0``."""
    train_split: str
    eval_split: str | None
    columns: Mapping[str, str]
    ignore_columns: tuple[str, ...]
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    """Variables of the chat template for it alone, which replace those of ``[data]``."""
    amount: SourceTable | None = None
    """How much of it an epoch takes; None takes all of it."""

    def named(self, text: str) -> str:
        """Return a text about it, after its label in a mixture."""
        return f"{self.label}: {text}" if self.label else text

    def split_name(self, split: str) -> str:
        """Return what a split of it is called in reports: ``train``, or ``helpful/train`` in a mixture."""
        return f"{self.label}/{split}" if self.label else split


@dataclass(frozen=True, kw_only=True)
class Recipe(Selection):
    """The core's typed tables, and the selected components, constructed with their options."""

    seed: int
    run: RunSection
    data: DataSection
    reference: ReferenceSection
    training: TrainingSection
    parallel: ParallelSection
    evaluation: EvaluationSection
    samples: SamplesSection | None = None
    checkpoints: CheckpointsSection
    logging: LoggingSection

    plugins: PluginManager
    path: Path | None = None
    """The file it came from."""

    @property
    def data_sets(self) -> tuple[DataSet, ...]:
        """Where the pairs come from: the one source of ``[data]``, or those of a mixture in the recipe's order."""
        data, shared = self.data, self.formatter
        if not data.sources:
            only = DataSet(
                source=self.the(DatasetSource),
                formatter=shared,
                label="",
                address="data",
                train_split=data.train_split,
                eval_split=data.eval_split,
                columns=data.columns,
                ignore_columns=tuple(data.ignore_columns),
            )
            return (only,)
        return tuple(
            DataSet(
                source=table.source,
                formatter=shared if table.format is None else table.formatter,
                label=table.called,
                address=f"data.sources.{number}",
                train_split=table.split or data.train_split,
                eval_split=table.eval_split or data.eval_split,
                columns={**data.columns, **table.columns},
                ignore_columns=tuple(dict.fromkeys([*data.ignore_columns, *table.ignore_columns])),
                template_arguments=table.template_arguments,
                amount=table,
            )
            for number, table in enumerate(data.sources)
        )

    @property
    def exporters(self) -> tuple[Exporter, ...]:
        """What is made of the result. Exporters are handed a Selection, which therefore has no such property."""
        return self.all_of(Exporter)
