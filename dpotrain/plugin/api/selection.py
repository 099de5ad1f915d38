"""What a recipe selects: the components of every kind, constructed with their options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from dpotrain.plugin.api.adapter import Adapter, InPlaceAdapter
from dpotrain.plugin.api.component import Component
from dpotrain.plugin.api.dataset_formatter import DatasetFormatter
from dpotrain.plugin.api.dataset_source import DatasetSource
from dpotrain.plugin.api.logger import Logger
from dpotrain.plugin.api.loss import Loss
from dpotrain.plugin.api.metric import Metric
from dpotrain.plugin.api.model_loader import ModelLoader
from dpotrain.plugin.api.nested import nested
from dpotrain.plugin.api.optimizer import Optimizer
from dpotrain.plugin.api.quantizer import Quantizer
from dpotrain.plugin.api.schedule import Schedule

C = TypeVar("C", bound=Component)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The selected components, and the resolved recipe that selects them."""

    parts: Mapping[str, tuple[Component, ...]]
    """By the table of their kind, in the order of :data:`dpotrain.plugin.api.kinds.KINDS`; after these, by their own
    place, those that stand inside tables of the core (``data.sources.0``, ``reference.quantizer``)."""
    document: dict[str, Any]
    """The resolved recipe as plain data: what recipe.toml in the run folder holds."""

    @property
    def components(self) -> tuple[Component, ...]:
        """All of them in the order of the tables, those that stand in options of another after that."""
        return tuple(each for parts in self.parts.values() for part in parts for _, each in nested(part))

    def all_of(self, kind: type[C]) -> tuple[C, ...]:
        """Return the components of a kind that tables of the recipe select, in its order."""
        return tuple(part for parts in self.parts.values() for part in parts if isinstance(part, kind))

    def one_of(self, kind: type[C]) -> C | None:
        """Return the component of a kind of which a recipe selects one at most."""
        return next(iter(self.all_of(kind)), None)

    def the(self, kind: type[C]) -> C:
        """Return the component of a kind that every recipe selects."""
        (part,) = self.all_of(kind)
        return part

    @property
    def requires(self) -> tuple[str, ...]:
        """The distributions that the recipe requires, as pip writes them."""
        return tuple(self.document.get("requires", ()))

    @property
    def model(self) -> ModelLoader:
        """Brings the policy and its tokenizer."""
        return self.the(ModelLoader)

    @property
    def quantizer(self) -> Quantizer | None:
        """Loads the weights in fewer bits; None loads them as they are."""
        return self._at("quantizer", Quantizer)

    @property
    def adapter(self) -> Adapter | None:
        """Says what is trained; None trains all weights."""
        return self.one_of(Adapter)

    @property
    def trains_in_place(self) -> bool:
        """Whether weights of the model itself are trained, all or some of them, and none beside them."""
        return self.adapter is None or isinstance(self.adapter, InPlaceAdapter)

    @property
    def sources(self) -> tuple[DatasetSource, ...]:
        """Bring the rows; several in a mixture."""
        return self.all_of(DatasetSource)

    @property
    def formatter(self) -> DatasetFormatter | None:
        """Turns rows into pairs, where ``[data]`` picks it; None is ``format = "auto"``."""
        return self._at("data.format", DatasetFormatter)

    def _at(self, table: str, kind: type[C]) -> C | None:
        """Return the component that a table picks, not one of the kind that stands inside another table."""
        return next((part for part in self.parts.get(table, ()) if isinstance(part, kind)), None)

    @property
    def loss(self) -> Loss:
        """Turns scores into losses."""
        return self.the(Loss)

    @property
    def optimizer(self) -> Optimizer:
        """Turns gradients into updates."""
        return self.the(Optimizer)

    @property
    def schedule(self) -> Schedule:
        """Moves the learning rate."""
        return self.the(Schedule)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The recipe's own numbers in the records."""
        return self.all_of(Metric)

    @property
    def loggers(self) -> tuple[Logger, ...]:
        """Where the records go."""
        return self.all_of(Logger)
