"""A recipe that has been read, checked and resolved: everything a run is decided by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpotrain.plugin.components import (
        Adapter,
        Component,
        DatasetFormatter,
        DatasetSource,
        Exporter,
        Logger,
        Loss,
        Metric,
        ModelLoader,
        Optimizer,
        Quantizer,
        Schedule,
    )
    from dpotrain.plugin.manager import PluginManager
    from dpotrain.recipe.sections import (
        CheckpointsSection,
        DataSection,
        EvaluationSection,
        LoggingSection,
        ReferenceSection,
        RunSection,
        TrainingSection,
    )


@dataclass(frozen=True, slots=True)
class Recipe:
    """The core's typed tables, and the selected components, constructed with their options."""

    seed: int
    run: RunSection
    data: DataSection
    reference: ReferenceSection
    training: TrainingSection
    evaluation: EvaluationSection
    checkpoints: CheckpointsSection
    logging: LoggingSection

    model: ModelLoader
    quantizer: Quantizer | None
    adapter: Adapter | None
    """None trains all weights."""
    source: DatasetSource
    formatter: DatasetFormatter | None
    """None is ``format = "auto"``."""
    loss: Loss
    optimizer: Optimizer
    schedule: Schedule
    metrics: tuple[Metric, ...]
    loggers: tuple[Logger, ...]
    exporters: tuple[Exporter, ...]

    plugins: PluginManager
    document: dict[str, Any]
    """The resolved recipe as plain data: what recipe.toml in the run folder holds."""
    path: Path | None = None
    """The file it came from."""

    @property
    def components(self) -> tuple[Component, ...]:
        """The selected components, in the order of the tables."""
        parts = (
            self.model,
            self.quantizer,
            self.adapter,
            self.source,
            self.formatter,
            self.loss,
            self.optimizer,
            self.schedule,
            *self.metrics,
            *self.loggers,
            *self.exporters,
        )
        return tuple(part for part in parts if part is not None)
