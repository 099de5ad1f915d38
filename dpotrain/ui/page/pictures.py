"""The charts of a report as PNG files, for papers and slides."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dpotrain.core.errors import RecipeError
from dpotrain.core.write_errors import writing
from dpotrain.report.charts import Chart, charts_of, charts_of_all
from dpotrain.report.comparison import short_names
from dpotrain.report.past_run import PastRun
from dpotrain.ui.page.drawing import colour_of
from dpotrain.ui.page.palette import LIGHT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Inches and dots per inch: the width of a text column, sharp in print; points of the texts.
_SIZE, _DPI = (4.2, 2.8), 300
_FONT = 8


def write_pictures(runs: Sequence[PastRun], folder: Path) -> Iterator[Path]:
    """Write a file for each chart into ``folder``, and yield its path.

    Raises:
        RecipeError: matplotlib is not installed.
        RunError: a file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RecipeError('--png needs matplotlib.\npip install "dpotrain[report]"') from error
    charts = (
        charts_of(runs[0]) if len(runs) == 1 else charts_of_all(runs, short_names([run.path for run in runs]))
    )
    for chart in charts:
        # Without pyplot: no window system is looked for, and nothing is kept between figures.
        figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
        _draw(chart, figure.add_subplot())
        path = folder / f"{chart.key}.png"
        with writing(path):
            folder.mkdir(parents=True, exist_ok=True)
            figure.savefig(path)
        yield path


def _draw(chart: Chart, axes: Axes) -> None:
    for curve in chart.curves:
        colour = LIGHT[colour_of(curve.colour)]
        held_out = curve.kind == "eval"
        axes.plot(
            curve.steps,
            curve.values,
            color=colour,
            # A name that begins with an underscore has no entry in a legend of matplotlib.
            label=curve.name.lstrip("_").replace("$", r"\$"),
            linewidth=1.6 if held_out else 0.9,
            marker="o" if held_out or len(curve.values) == 1 else "",
            markersize=3,
            alpha=1.0 if held_out else 0.8,
        )
        bounds = [
            (step, low, high)
            for step, (low, high) in zip(curve.steps, curve.intervals, strict=False)
            if math.isfinite(low)
        ]
        if bounds:
            axes.vlines(*zip(*bounds, strict=True), color=colour, linewidth=0.9, alpha=0.7)
    if chart.bounds == (0.0, 1.0):
        from matplotlib.ticker import PercentFormatter

        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("step", fontsize=_FONT)
    axes.set_ylabel(chart.title.replace("$", r"\$"), fontsize=_FONT)
    axes.tick_params(labelsize=_FONT)
    axes.grid(color=LIGHT["rule"], linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if len(chart.curves) > 1:
        axes.legend(fontsize=_FONT, frameon=False)
