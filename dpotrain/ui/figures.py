"""The numbers of an evaluation that people read, and how they are written: in summary, tables and pages alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dpotrain.core.formats import count, interval, number, points, share, signed
from dpotrain.core.statistics import wilson


@dataclass(frozen=True, slots=True)
class Figure:
    """A metric of evaluations."""

    metric: str
    label: str
    short: str
    """The label where it stands beside that of a margin."""
    write: Callable[[float], str]
    write_change: Callable[[float], str]


ACCURACY = Figure("rewards/accuracies", "accuracy", "accuracy", share, points)
FIGURES = (
    Figure("loss", "loss", "loss", number, signed),
    ACCURACY,
    Figure("rewards/margins", "margin", "margin", number, signed),
    Figure("rewards/chosen", "chosen reward", "chosen", number, signed),
    Figure("rewards/rejected", "rejected reward", "rejected", number, signed),
)


def by_source(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return the figures of each source of a mixture, by its label; empty where there is one source."""
    ends = "/rewards/accuracies"
    labels = [name.removesuffix(ends) for name in metrics if name.endswith(ends)]
    return {
        label: {figure.metric: metrics.get(f"{label}/{figure.metric}", math.nan) for figure in FIGURES}
        for label in labels
        if f"{label}/loss" in metrics
    }


def accuracy_with_interval(accuracy: float, pairs: float) -> str:
    """Return an accuracy with what it is a share of: ``42.9 % (3 of 7 pairs, 95 %: 15.8 to 75.0 %)``.

    Ties count half, so the number of right pairs is left out where it is not whole. Without ``pairs`` the share alone.
    """
    if not (0 < pairs < 2**53 and math.isfinite(accuracy)):
        return share(accuracy)
    right = accuracy * pairs
    whole = abs(right - round(right)) < 1e-6 * pairs
    of = f"{count(round(right))} of {count(round(pairs))}" if whole else f"{count(round(pairs))}"
    return f"{share(accuracy)} ({of} pair{'s' * (pairs != 1)}, 95 %: {interval(*wilson(accuracy, pairs))})"
