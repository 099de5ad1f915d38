"""Metrics: numbers of the recipe's own in the records."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from dpotrain.core.scores import PairScores
from dpotrain.plugin.api.component import Component, hookspec
from dpotrain.plugin.api.returns import are_names, returns

if TYPE_CHECKING:
    import torch

#: What a metric returns for a measure: the values of the pairs, (pairs,), or values and weights, each (pairs,).
Measured: TypeAlias = "torch.Tensor | tuple[torch.Tensor, torch.Tensor]"


class Metric(Component):
    """Adds numbers to the records, computed from the scores of pairs; selected by a ``[[metrics]]`` table."""

    kind = "metric"

    needs_token_log_probs: ClassVar[bool] = False
    """Whether ``scores.policy_tokens`` is used: the log-prob of every scored token."""
    needs_statistics: tuple[str, ...] = ()
    """Which of ``scores.statistics`` are used: ``("entropy",)``. Each costs a pass over the logits."""
    columns: ClassVar[tuple[str, ...]] = ()
    """Columns of the data whose numbers ``scores.columns`` has, by the names that ``[data.columns]`` maps to them:
    ``("weight",)``. A pair without a finite number in one of them is dropped and counted."""

    @property
    @abstractmethod
    @returns(
        'a tuple of names of letters, digits and . _ - /, such as ("margins",)',
        lambda value: are_names(value) and value,
    )
    def measures(self) -> tuple[str, ...]:
        """The names of its numbers. In records they stand behind the name of the plugin: ``length/margins``."""

    @abstractmethod
    def __call__(self, scores: PairScores) -> Mapping[str, Measured]:
        """Return every measure by name: a tensor of shape (pairs,), of which a record has the mean over its pairs.

        Or two such tensors, values and weights (or a mask), for a mean over some of the pairs; what no pair weighs
        in is left out of a record. A value may depend on its own pair only, as a loss may. Called without gradients,
        in training after the backward pass and in evaluation; where the loss needs no reference,
        ``scores.reference_*`` are zero. A metric that raises ends the run.
        """


@hookspec
def dpotrain_metrics() -> Iterable[type[Metric]]:  # type: ignore[empty-body]
    """Offer metrics, which add numbers to the records.

    Called: while the recipe is read, and by ``dpotrain plugins`` and ``dpotrain schema``.

    Rank: every process; the numbers are means over the pairs of all of them.

    Must not import: torch or transformers at the top of its module.

    Result: classes. Every ``[[metrics]]`` table picks one by ``use``. A metric returns numbers of single pairs and
    never takes a mean itself; records, loggers and ``summary.json`` have the means as ``PLUGIN/MEASURE``.

    Example:
        from pydantic import Field

        from dpotrain import hookimpl
        from dpotrain.plugin.api import Metric


        class Sure(Metric):
            name = "sure"
            measures = ("share", "chosen_drop")

            class Options(Metric.Options):
                nats: float = Field(3.0, gt=0, description="A pair is sure if its log-ratios are so far apart.")

            def __call__(self, scores):
                apart = scores.chosen_logratio - scores.rejected_logratio
                sure = apart > self.options.nats
                return {"share": sure, "chosen_drop": (-scores.chosen_logratio, sure)}


        @hookimpl
        def dpotrain_metrics():
            return [Sure]
    """
