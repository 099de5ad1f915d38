"""The kinds of component, one row each. Recipes, their schema, loading, listings, tracing and tests derive from it.

A new kind of the core is a module beside this one (the class and its hook specification), a row here, a conformance
suite in :mod:`dpotrain.testing.conformance` and a template in ``dpotrain/scaffold/templates``. A plugin declares a kind
by a row as well, with the hook ``dpotrain_kinds``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from dpotrain.plugin.api.adapter import Adapter, dpotrain_adapters
from dpotrain.plugin.api.callback import Callback, dpotrain_callbacks
from dpotrain.plugin.api.component import Component, hookspec
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


#: The attribute of a kind's class that holds its row.
_ROW = "__dpotrain_kind__"


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

    def __post_init__(self) -> None:
        setattr(self.component, _ROW, self)

    @property
    def catalogue(self) -> str:
        """Name of the hook: ``"dpotrain_losses"``."""
        return self.hook.__name__

    @property
    def heading(self) -> str:
        """How a recipe begins its table: ``[loss]``, ``[[loggers]]``."""
        return f"[[{self.table}]]" if self.selected == "listed" else f"[{self.table}]"


#: The kinds of the core, in the order of a recipe's tables.
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


class Kinds:
    """The kinds that recipes can select components of: the core's, and those that plugins declare."""

    def __init__(self, rows: Iterable[Kind]) -> None:
        """``rows`` are in the order of a recipe's tables."""
        self.rows = tuple(rows)

    def __iter__(self) -> Iterator[Kind]:
        return iter(self.rows)

    @cached_property
    def catalogues(self) -> dict[str, type[Component]]:
        """Which hook offers which kind."""
        return {kind.catalogue: kind.component for kind in self.rows}

    @cached_property
    def tables(self) -> dict[str, Kind]:
        """The tables in which ``use`` picks one component; ``[data]`` is also holds keys of the core."""
        return {kind.table: kind for kind in self.rows if kind.selected in ("required", "optional")}

    @cached_property
    def optional(self) -> frozenset[str]:
        """Those that may be left out, and taken away again with ``false``."""
        return frozenset(kind.table for kind in self.rows if kind.selected == "optional")

    @cached_property
    def listed(self) -> dict[str, Kind]:
        """Lists of tables (``[[loggers]]``) that each pick a component."""
        return {kind.table: kind for kind in self.rows if kind.selected == "listed"}

    @cached_property
    def default_use(self) -> dict[str, str]:
        """What ``use`` is in tables that need not say it."""
        return {kind.table: kind.default_use for kind in self.rows if kind.default_use is not None}

    def called(self, words: str) -> Kind:
        """Return the kind with that :attr:`Component.kind`; there is one."""
        return next(kind for kind in self.rows if kind.component.kind == words)


#: Those of the core alone.
CORE_KINDS = Kinds(KINDS)

#: Which hook offers which kind of the core.
CATALOGUES = CORE_KINDS.catalogues


def kind_of(component: type[Component]) -> Kind:
    """Return the kind that a component class is of."""
    row: Kind = getattr(component, _ROW)
    return row


@hookspec
def dpotrain_kinds() -> Iterable[Kind]:  # type: ignore[empty-body]
    """Declare kinds of component, with tables of their own in recipes, that plugins offer components of.

    Called: when plugins are loaded, before the hooks that offer components.

    Rank: every process.

    Must not import: torch or transformers at the top of its module.

    Result: rows. The component class derives from ``Component`` and says in ``kind`` what it is in words; the hook is
    a function with ``@hookspec``, whose name is what plugins implement to offer components. ``selected`` is
    ``"listed"`` or ``"optional"``: a kind that is installed must not change what other recipes mean. The plugin that
    declares a kind is active where a recipe selects a component of it, and reaches them by ``run.all_of(…)``.

    Example:
        from abc import abstractmethod

        from dpotrain import hookimpl
        from dpotrain.plugin.api import Component, Kind, hookspec


        class Judge(Component):
            kind = "judge"

            @abstractmethod
            def prefers(self, prompt: str, first: str, second: str) -> float: ...


        @hookspec
        def dpotrain_judges(): ...


        @hookimpl
        def dpotrain_kinds():
            return [Kind(Judge, dpotrain_judges, "judges", "listed", changes_steps=False, on_every_process=False)]


        @hookimpl
        def dpotrain_evaluated(run, evaluation):
            for judge in run.all_of(Judge):
                judged = [judge.prefers(pair.prompt, pair.chosen, pair.rejected) for pair in run.held_out()]
                run.log(**{f"{judge.name}/chosen": sum(judged) / len(judged)})
    """
