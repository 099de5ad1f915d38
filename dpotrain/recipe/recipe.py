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
        Logger,
        Loss,
        ModelLoader,
        Quantizer,
    )
    from dpotrain.plugin.manager import PluginManager
    from dpotrain.recipe.sections import (
        CheckpointsSection,
        DataSection,
        EvaluationSection,
        LoggingSection,
        OptimizerSection,
        ReferenceSection,
        RunSection,
        ScheduleSection,
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
    optimizer: OptimizerSection
    schedule: ScheduleSection
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
    loggers: tuple[Logger, ...]

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
            *self.loggers,
        )
        return tuple(part for part in parts if part is not None)
