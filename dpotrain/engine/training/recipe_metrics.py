"""The recipe's own metrics, summed over pairs like the engine's: a record has exact means, however steps are cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from dpotrain.core.scores import PairScores
from dpotrain.plugin.api import Measured, Metric
from dpotrain.plugin.api.returns import WrongReturnError, described

_NONE: Mapping[str, torch.Tensor] = {}


@dataclass(frozen=True, slots=True)
class RecipeMetrics:
    """What ``[[metrics]]`` adds to the records. Every number has two sums: of its values, and of their weights."""

    chosen: Mapping[Metric, tuple[str, ...]] = field(default_factory=dict)
    """Each metric, with the names that its measures have in records."""
    parts: tuple[str, ...] = ()
    """The names of the loss's parts (see :meth:`Loss.parts`)."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names in records, in order."""
        own = tuple(f"loss/{part}" for part in self.parts)
        return (*own, *(name for names in self.chosen.values() for name in names))

    def sums(
        self, scores: PairScores, weights: torch.Tensor, parts: Mapping[str, torch.Tensor] = _NONE
    ) -> torch.Tensor:
        """Return the sums of a micro-batch, (2 * names,) float64, without waiting for the device.

        ``weights`` (pairs,) is 0 for a pair that only fills the micro-batch; ``parts`` are the loss's, (pairs,) each.

        Raises:
            WrongReturnError: a metric returned something else than its measures; what one raises passes through.
        """
        sums = [weights.new_zeros(0, dtype=torch.float64)]
        with torch.no_grad():
            for part in self.parts:
                sums.append(torch.stack([(parts[part] * weights).double().sum(), weights.double().sum()]))
            for metric in self.chosen:
                found = _measured(metric, scores)
                for measure in metric.measures:
                    values, own = _values_and_weights(metric, measure, found[measure], weights)
                    share = weights.double() * own.double()
                    # What weighs nothing may be no number at all: a ratio over none, for instance.
                    values = torch.where(share > 0, values.double(), 0.0)
                    sums.append(torch.stack([(values * share).sum(), share.sum()]))
        return torch.cat(sums)

    def by_name(self, sums: torch.Tensor) -> dict[str, tuple[float, float]]:
        """Return the two sums of every number by its name in records."""
        pairs = map(tuple, sums.reshape(-1, 2).tolist())
        return dict(zip(self.names, pairs, strict=True))


def _measured(metric: Metric, scores: PairScores) -> Mapping[str, Measured]:
    found = metric(scores)
    if not isinstance(found, Mapping) or found.keys() != set(metric.measures):
        got = ", ".join(map(str, found)) or "no measure" if isinstance(found, Mapping) else described(found)
        raise WrongReturnError(
            f"__call__ returned {got}; it must return its measures by name: {', '.join(metric.measures)}",
            metric,
        )
    return found


def _values_and_weights(
    metric: Metric, measure: str, measured: Measured, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    both = measured if isinstance(measured, tuple) else (measured, torch.ones_like(weights))
    if len(both) != 2 or not all(
        isinstance(part, torch.Tensor) and part.shape == weights.shape for part in both
    ):
        parts = measured if isinstance(measured, tuple) and measured else (measured,)
        got = " and ".join(map(described, parts))
        raise WrongReturnError(
            f'__call__ returned {got} as "{measure}"; it must return one number a pair, a tensor of shape '
            f"{tuple(weights.shape)}, or two such tensors, values and weights; the engine takes the mean",
            metric,
        )
    return both
