"""The charts of the live view: what each shows of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dpotrain.core.formats import learning_rate, magnitude, megabytes, number, rate, share, signed
from dpotrain.ui.chart import Curve, chart, plain
from dpotrain.ui.layout import Block
from dpotrain.ui.state import ViewState


@dataclass(frozen=True, slots=True)
class ChartKind:
    """What a chart shows: metrics with their labels."""

    title: str
    metrics: tuple[tuple[str, str], ...]
    write: Callable[[float], str]
    label: Callable[[float, float], str] = plain
    evaluated: bool = True
    """Whether evaluations have it."""


def _memory_label(value: float, each: float) -> str:
    """Return a size, given in MiB, so that labels ``each`` apart differ."""
    if value < 1000 or each >= 102.4:
        return megabytes(value)
    return f"{value / 1024:.2f} GB" if each >= 10.24 else f"{value:,.0f} MB"


def _share_label(value: float, each: float) -> str:
    return f"{value * 100:.{0 if each >= 0.01 else 1}f} %"


CHARTS = (
    ChartKind("loss", (("", "loss"),), number),
    ChartKind("margin", (("", "rewards/margins"),), signed),
    ChartKind("accuracy", (("", "rewards/accuracies"),), share, _share_label),
    ChartKind("rewards", (("chosen", "rewards/chosen"), ("rejected", "rewards/rejected")), signed),
    ChartKind("gradient norm", (("", "grad_norm"),), magnitude, evaluated=False),
    ChartKind("learning rate", (("", "learning_rate"),), learning_rate, evaluated=False),
    ChartKind("peak memory", (("", "peak_memory_mb"),), megabytes, _memory_label, evaluated=False),
    ChartKind(
        "tokens/s", (("", "tokens_per_second"),), rate, lambda value, each: rate(value), evaluated=False
    ),
)
_STYLES = {("train", 0): "green", ("train", 1): "cyan", ("eval", 0): "magenta", ("eval", 1): "yellow"}


def charts(state: ViewState) -> list[ChartKind]:
    """Return the charts for which there are numbers."""
    have = set(state.course)

    def drawn(kind: ChartKind) -> bool:
        records = ("train", "eval") if kind.evaluated else ("train",)
        return any((record, metric) in have for record in records for _, metric in kind.metrics)

    return [kind for kind in CHARTS if drawn(kind)]


def draw(kind: ChartKind, state: ViewState, width: int, height: int) -> Block:
    """Draw one chart; the legend names the training curves first, and the newest values."""
    curves = []
    several = len(kind.metrics) > 1
    for record in ("train", "eval") if kind.evaluated else ("train",):
        for place, (label, metric) in enumerate(kind.metrics):
            course = state.course.get((record, metric))
            if course is None or not (drawn := course.drawn()):
                continue
            value = state.mean(metric) if record == "train" else course.last
            name = record if kind.evaluated else ""
            if several:
                name = label if record == "train" else f"{label} eval"
            written, style = "" if value is None else kind.write(value), _STYLES[record, place]
            short = name if several else ""
            curves.append(Curve(name, drawn, style, written, short, marks=record == "eval"))
    return chart(kind.title, curves, width, height, kind.label)
