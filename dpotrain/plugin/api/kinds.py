"""The kinds of component, one row each. Recipes, their schema, loading, listings, tracing and tests derive from it.

A new kind is a module beside this one (the class and its hook specification), a row here, a conformance suite in
:mod:`dpotrain.testing.conformance` and a template in ``dpotrain/scaffold/templates``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from dpotrain.plugin.api.adapter import Adapter, dpotrain_adapters
from dpotrain.plugin.api.callback import Callback, dpotrain_callbacks
from dpotrain.plugin.api.component import Component
from dpotrain.plugin.api.dataset_formatter import DatasetFormatter, dpotrain_dataset_formatters
from dpotrain.plugin.api.dataset_source import DatasetSource, dpotrain_dataset_sources
from dpotrain.plugin.api.exporter import Exporter, dpotrain_exporters
from dpotrain.plugin.api.logger import Logger, dpotrain_loggers
from dpotrain.plugin.api.loss import Loss, dpotrain_losses
from dpotrain.plugin.api.metric import Metric, dpotrain_metrics
from dpotrain.plugin.api.model_loader import ModelLoader, dpotrain_model_loaders
from dpotrain.plugin.api.optimizer import Optimizer, dpotrain_optimizers
from dpotrain.plugin.api.quantizer import Quantizer, dpotrain_quantizers
from dpotrain.plugin.api.schedule import Schedule, dpotrain_schedules

#: How a recipe selects components of a kind: by a table it must have, one it may leave out (or set to false), a list
#: of tables (``[[loggers]]``), or the key of another kind's table.
Selected = Literal["required", "optional", "listed", "key"]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of component."""

    component: type[Component]
    hook: Callable[..., Any]
    """The specification of the hook that offers components of the kind."""
    table: str
    """The recipe's table, ``"loss"``; for a kind that is selected by a key, ``"data.format"``."""
    selected: Selected = "required"
    default_use: str | None = None
    """What ``use`` is where a recipe does not say. Part of the recipe's language: were it for plugins to say, what
    happens to be installed would change what a recipe means."""
    changes_steps: bool = True
    """Whether the components compute part of a step. Where not, a resumed run may have others."""
    on_every_process: bool = True
    """Whether a component hears run events on every process, so that what it keeps is the same on all of them. Where
    not, on the main process only."""

    @property
    def catalogue(self) -> str:
        """Name of the hook: ``"dpotrain_losses"``."""
        return self.hook.__name__


#: In the order of a recipe's tables.
KINDS: tuple[Kind, ...] = (
    Kind(ModelLoader, dpotrain_model_loaders, "model"),
    Kind(Quantizer, dpotrain_quantizers, "quantizer", "optional"),
    Kind(Adapter, dpotrain_adapters, "adapter", "optional"),
    Kind(DatasetSource, dpotrain_dataset_sources, "data", on_every_process=False),
    Kind(DatasetFormatter, dpotrain_dataset_formatters, "data.format", "key", on_every_process=False),
    Kind(Loss, dpotrain_losses, "loss"),
    Kind(Optimizer, dpotrain_optimizers, "optimizer", default_use="adamw"),
    Kind(Schedule, dpotrain_schedules, "schedule", default_use="cosine"),
    Kind(Metric, dpotrain_metrics, "metrics", "listed", changes_steps=False),
    Kind(
        Callback,
        dpotrain_callbacks,
        "callbacks",
        "listed",
        changes_steps=False,
        on_every_process=False,
    ),
    Kind(Logger, dpotrain_loggers, "loggers", "listed", changes_steps=False, on_every_process=False),
    Kind(Exporter, dpotrain_exporters, "exporters", "listed", changes_steps=False, on_every_process=False),
)

#: Which hook offers which kind.
CATALOGUES: dict[str, type[Component]] = {kind.catalogue: kind.component for kind in KINDS}

#: The tables in which ``use`` picks one component. ``[data]`` is shared with the core, whose keys come first.
COMPONENT_TABLES: dict[str, type[Component]] = {
    kind.table: kind.component for kind in KINDS if kind.selected in ("required", "optional")
}

#: Those that may be left out, and taken away again with ``false``.
OPTIONAL_TABLES = frozenset(kind.table for kind in KINDS if kind.selected == "optional")

#: Lists of tables (``[[loggers]]``) that each pick a component.
LISTED_TABLES: dict[str, type[Component]] = {
    kind.table: kind.component for kind in KINDS if kind.selected == "listed"
}

#: What ``use`` is in tables that need not say it.
DEFAULT_USE: dict[str, str] = {kind.table: kind.default_use for kind in KINDS if kind.default_use is not None}


def kind_of(component: type[Component]) -> Kind:
    """Return the kind that a component class is of."""
    return next(kind for kind in KINDS if issubclass(component, kind.component))
