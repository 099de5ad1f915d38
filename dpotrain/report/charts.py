"""The charts of runs as data, for whatever draws them: the terminal, the page, a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from dpotrain.core.formats import learning_rate, megabytes, number, rate, share
from dpotrain.core.records import Kind
from dpotrain.report.comparison import interval_of
from dpotrain.report.past_run import PastRun

Colour = Literal["train", "eval", "chosen", "rejected"] | int

#: Points of a curve that are drawn; of a longer one, means of equally many neighbours.
_MOST_POINTS = 400
#: No run measures a value as large as this, or as small as its inverse.
_LARGEST = 1e100


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a chart."""

    name: str
    kind: Kind
    colour: Colour
    """What the curve is of, or the position of its run."""
    steps: tuple[float, ...]
    values: tuple[float, ...]
    """Not a number where there is a gap."""
    intervals: tuple[tuple[float, float], ...] = ()
    """The 95 % interval of each value, where it has one."""


@dataclass(frozen=True, slots=True)
class Chart:
    """Curves over steps."""

    key: str
    """A name for files: ``accuracy``."""
    title: str
    curves: tuple[Curve, ...]
    write: Callable[[float], str]
    """Writes a value in full."""
    bounds: tuple[float, float] = (-math.inf, math.inf)
    """What values cannot exceed."""


_METRICS: dict[str, tuple[str, str, Callable[[float], str]]] = {
    "loss": ("loss", "loss", number),
    "rewards/accuracies": ("accuracy", "accuracy", share),
    "rewards/margins": ("margin", "reward margin", number),
    "rewards/chosen": ("chosen-reward", "chosen reward", number),
    "rewards/rejected": ("rejected-reward", "rejected reward", number),
    "logps/chosen": ("chosen-logp", "chosen log-prob", number),
    "logps/rejected": ("rejected-logp", "rejected log-prob", number),
    "router_loss": ("router-loss", "router loss", number),
    "learning_rate": ("learning-rate", "learning rate", learning_rate),
    "grad_norm": ("grad-norm", "gradient norm", number),
    "tokens_per_second": ("tokens-per-second", "tokens per second", rate),
    "pairs_per_second": ("pairs-per-second", "pairs per second", rate),
    "peak_memory_mb": ("memory", "peak memory in MB", megabytes),
}
#: Two metrics of one run that belong on one chart: its key and title.
_TOGETHER = {
    ("rewards/chosen", "rewards/rejected"): ("rewards", "rewards of chosen and rejected answers"),
    ("logps/chosen", "logps/rejected"): ("logps", "log-probs of chosen and rejected answers"),
}
#: Metrics that say nothing new over steps.
_LEFT_OUT = ("epoch", "pairs", "pairs_per_second")


def charts_of(run: PastRun) -> list[Chart]:
    """Return the charts of one run, those that people look at first before the others."""
    charts = []
    together = {metric: both for both in _TOGETHER for metric in both}
    for metric in _metrics([run]):
        if metric not in together:
            curves = [curve for kind in ("train", "eval") if (curve := _curve(run, metric, kind, kind, kind))]
            charts.append(_chart(metric, curves))
        elif metric == together[metric][0]:
            curves = [
                curve
                for name, each in zip(("chosen", "rejected"), together[metric], strict=True)
                for kind in ("train", "eval")
                if (curve := _curve(run, each, kind, f"{name}, {kind}", name))  # type: ignore[arg-type]
            ]
            key, title = _TOGETHER[together[metric]]
            charts.append(Chart(key, title, tuple(curves), _METRICS[metric][2]))
    return [chart for chart in charts if chart.curves]


def charts_of_all(runs: Sequence[PastRun], names: Sequence[str]) -> list[Chart]:
    """Return charts with the curves of several runs, a colour for each run."""
    charts = []
    for metric in _metrics(runs):
        curves = [
            curve
            for place, (run, name) in enumerate(zip(runs, names, strict=True))
            for kind in ("train", "eval")
            if (curve := _curve(run, metric, kind, f"{name}, {kind}", place))
        ]
        charts.append(_chart(metric, curves))
    return [chart for chart in charts if chart.curves]


def _metrics(runs: Sequence[PastRun]) -> list[str]:
    """Return the metrics of any record: the known ones in their order, then those of plugins."""
    found = dict.fromkeys(name for run in runs for record in run.records for name in record.metrics)
    own = [name for name in _METRICS if name in found]
    return [name for name in (*own, *(n for n in found if n not in own)) if name not in _LEFT_OUT]


def _chart(metric: str, curves: Sequence[Curve]) -> Chart:
    key, title, write = _METRICS.get(metric, (_file_name(metric), metric, number))
    bounds = (0.0, 1.0) if metric == "rewards/accuracies" else (-math.inf, math.inf)
    return Chart(key, title, tuple(curves), write, bounds)


def _file_name(metric: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in metric)[:60]


def _curve(run: PastRun, metric: str, kind: Kind, name: str, colour: Colour) -> Curve | None:
    records = [record for record in run.records if record.kind == kind and metric in record.metrics]
    if not any(abs(record.metrics[metric]) < _LARGEST for record in records):
        return None
    intervals: list[tuple[float, float]] = []
    if kind == "eval" and metric == "rewards/accuracies":
        intervals = [interval_of(run, record) for record in records]
    points = [(float(record.step), _drawable(record.metrics[metric])) for record in records]
    if len(points) > _MOST_POINTS:
        points, intervals = [*_thinned(points)], []
    steps, values = zip(*points, strict=True)
    return Curve(name, kind, colour, steps, values, tuple(intervals))


def _drawable(value: float) -> float:
    """Return a value of which differences are finite, too; beyond any measurement there is a gap, or zero."""
    if not abs(value) < _LARGEST:
        return math.nan
    return value if abs(value) > 1 / _LARGEST else 0.0


def _thinned(points: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    for cell in range(_MOST_POINTS):
        part = points[len(points) * cell // _MOST_POINTS : len(points) * (cell + 1) // _MOST_POINTS]
        finite = [(step, value) for step, value in part if math.isfinite(value)]
        if not finite:
            yield part[0][0], math.nan
            continue
        yield tuple(math.fsum(each) / len(finite) for each in zip(*finite, strict=True))  # type: ignore[misc]
