"""A recipe that is read, checked and resolved: everything that determines a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dpotrain.plugin.api import Exporter, Selection
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.recipe import sections


@dataclass(frozen=True, kw_only=True)
class Recipe(Selection):
    """The core's typed tables, and the selected components, constructed with their options."""

    seed: int
    run: sections.RunSection
    data: sections.DataSection
    reference: sections.ReferenceSection
    training: sections.TrainingSection
    evaluation: sections.EvaluationSection
    samples: sections.SamplesSection | None = None
    checkpoints: sections.CheckpointsSection
    logging: sections.LoggingSection

    plugins: PluginManager
    path: Path | None = None
    """The file it came from."""

    @property
    def exporters(self) -> tuple[Exporter, ...]:
        """What is made of the result. Exporters are handed a Selection, which therefore has no such property."""
        return self.all_of(Exporter)
