"""The output of ``dpotrain compare``: results, differences and curves of several runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from dpotrain.core.formats import count, duration, interval, printable
from dpotrain.report.charts import charts_of_all
from dpotrain.report.comparison import Comparison, Difference, interval_of
from dpotrain.ui.comparison_texts import paired_text, value_text
from dpotrain.ui.console import open_console
from dpotrain.ui.figures import FIGURES
from dpotrain.ui.fitting import Fitting
from dpotrain.ui.output import print_view, width_of
from dpotrain.ui.run_charts import FILE_WIDTH, RUN_STYLES, chart_lines
from dpotrain.ui.runs_table import STATE_STYLES

#: Charts that are worth a terminal's room, by their key.
_SHOWN = ("loss", "accuracy", "margin")


def print_comparison(found: Comparison, console: Console | None = None) -> None:
    """Print a comparison on standard output (or ``console``); lines are wrapped on a terminal only."""
    console = open_console() if console is None else console
    print_view(Group(*_view(found, width_of(console) or FILE_WIDTH)), console)


def _view(found: Comparison, width: int) -> Iterator[RenderableType]:
    yield _results(found)
    for caveat in found.caveats:
        yield Text.assemble(("note: ", "bold yellow"), printable(caveat))
    for pair in found.pairs:
        yield Text(printable(paired_text(pair, found.names)))
    yield Text()
    yield Text("differences of the recipes", style="bold underline")
    yield _differences(found.recipe, found.names) if found.recipe else Text("none: the recipes are the same")
    if found.environment:
        yield Text("differences of the environments", style="bold underline")
        yield _differences(found.environment, found.names)
    charts = [chart for chart in charts_of_all(found.runs, found.names) if chart.key in _SHOWN]
    if charts:
        yield Text()
        yield from chart_lines(charts, width)


def _results(found: Comparison) -> RenderableType:
    names = [figure.short for figure in FIGURES]
    names.insert(2, "95 % interval")
    table = _table(
        Column("run", overflow="fold"),
        Column("state", no_wrap=True),
        *(Column(name, justify="right", no_wrap=True) for name in ("step", *names, "took")),
    )
    for place, (name, run, last) in enumerate(zip(found.names, found.runs, found.evaluations, strict=True)):
        metrics = {} if last is None else last.metrics
        cells = [
            figure.write(metrics[figure.metric]) if figure.metric in metrics else "" for figure in FIGURES
        ]
        cells.insert(2, interval(*interval_of(run, last)))
        took = duration(run.outcome.seconds) if run.outcome is not None else ""
        table.add_row(
            Text(printable(name), style=RUN_STYLES[place % len(RUN_STYLES)]),
            Text(run.state, style=STATE_STYLES[run.state]),
            *(count(run.step), *cells, took),
        )
    return Fitting(table)


def _differences(rows: Sequence[Difference], names: Sequence[str]) -> RenderableType:
    table = _table("key", *(Column(printable(name), overflow="fold") for name in names))
    for row in rows:
        table.add_row(Text(printable(row.key)), *(Text(value_text(value)) for value in row.values))
    return Fitting(table)


def _table(*columns: Column | str) -> Table:
    return Table(*columns, box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
