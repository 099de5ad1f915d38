"""The output of ``dpotrain inspect``: how rows are read, lengths, findings, and pairs as the model sees them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from dpotrain.core.formats import count, printable, share
from dpotrain.data.inspection.finding import Finding
from dpotrain.data.inspection.inspection import Inspection, SplitOverview
from dpotrain.data.inspection.row_view import RowView
from dpotrain.data.split_report import SplitReport
from dpotrain.ui.console import open_console
from dpotrain.ui.output import print_view, width_of
from dpotrain.ui.symbols import Symbols
from dpotrain.ui.token_view import legend, row_lines

_STYLES = {"serious": "bold red", "warning": "yellow", "note": "cyan"}
_LONGEST_BAR = 40


def print_inspection(inspection: Inspection, console: Console | None = None) -> None:
    """Print an inspection on standard output (or ``console``); lines are wrapped on a terminal only."""
    console = open_console() if console is None else console
    print_view(Group(*_view(inspection, Symbols.of(console), width_of(console))), console)


def print_row(view: RowView, console: Console | None = None) -> None:
    """Print a row as the model sees it."""
    console = open_console() if console is None else console
    symbols = Symbols.of(console)
    lines = [*row_lines(view, symbols, width_of(console))]
    print_view(Group(*lines, *([legend(symbols)] if view.pairs else [])), console)


def finding_line(finding: Finding) -> str:
    """Return a finding, its rows and its remedy as one line."""
    rows = f" ({_rows(finding)})" if finding.rows else ""
    return printable(
        f"{finding.severity}: {finding.split}: {finding.kind}: {finding.text}{rows}. {finding.remedy}"
    )


def _view(inspection: Inspection, symbols: Symbols, width: int | None) -> Iterator[RenderableType]:
    report = inspection.report
    for name, split in report.splits.items():
        yield Text()
        yield from _split(name, split, inspection.overviews[name], report.max_length, symbols, width)
    yield Text()
    held = report.evaluation_pairs
    others = "none held out for evaluation" if held is None else f"{count(held)} to evaluate on"
    for line in report.mixture.lines():
        yield Text(printable(line))
    in_an_epoch = " in an epoch" if report.mixture.is_of_several else ""
    yield Text(f"{count(report.train_pairs)} pairs to train on{in_an_epoch}, {others}")
    yield Text()
    yield from _findings(inspection)
    if inspection.example is not None:
        yield Text()
        yield Text("one pair as the model sees it; --row N shows another, whole", style="bold underline")
        yield from row_lines(inspection.example, symbols, width, short=True)
        yield legend(symbols)


def _split(
    name: str,
    split: SplitReport,
    overview: SplitOverview,
    max_length: int,
    symbols: Symbols,
    width: int | None,
) -> Iterator[RenderableType]:
    yield Text(printable(name), style="bold underline")
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    rows = {
        "rows": f"{count(split.rows_read)} read, {count(split.rows_dropped)} dropped",
        "pairs": f"{count(split.pairs_kept)} kept, of {count(overview.different_prompts)} different prompts",
        "columns read": ", ".join(overview.read_columns) or "not known",
        "not used": ", ".join(split.unused_columns) or "none",
    }
    for part, of in split.lengths.items():
        median, most, longest = (count(round(of[name])) for name in ("median", "p95", "max"))
        rows[f"{part} tokens"] = f"median {median}, 95 % within {most}, longest {longest}"
    bias = split.length_bias
    if split.pairs_kept:
        chosen, rejected = (share(n / split.pairs_kept) for n in (bias.chosen_longer, bias.rejected_longer))
        longer = "shorter" if bias.mean_difference < 0 else "longer"
        rows["longer answer"] = (
            f"chosen in {chosen}, rejected in {rejected} of the pairs; "
            f"chosen {abs(bias.mean_difference):g} tokens {longer} in the mean"
        )
    for label, text in rows.items():
        grid.add_row(label, Text(printable(text)))
    yield grid
    if split.histogram:
        yield Text("tokens of the prompt with its longer answer, before any cut", style="dim")
        yield from _histogram(split.histogram, max_length, symbols, width)


def _histogram(
    counts: dict[str, int], max_length: int, symbols: Symbols, width: int | None
) -> Iterator[RenderableType]:
    most = max(counts.values())
    label = max(len(count(int(edge))) for edge in counts)
    number = len(count(most))
    room = min(_LONGEST_BAR, (_LONGEST_BAR * 2 if width is None else width) - label - number - 6)
    marked = False
    for edge, pairs in counts.items():
        if int(edge) > max_length and not marked:
            marked = True
            yield Text(
                f"{symbols.dash * 2} max_length {count(max_length)} {symbols.dash * 2}", style="yellow"
            )
        bar = symbols.bar * max(round(room * pairs / most), int(pairs > 0))
        style = "red" if marked else "green"
        yield Text.assemble(
            f"to {count(int(edge)):>{label}} {count(pairs):>{number}} ", (bar, style), no_wrap=True
        )


def _findings(inspection: Inspection) -> Iterator[RenderableType]:
    found = inspection.findings
    heading = f"{count(len(found)) if found else 'no'} finding{'s' * (len(found) != 1)}"
    yield Text(heading, style="bold underline")
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column()
    many = len(inspection.report.splits) > 1
    for finding, following in zip_longest(found, found[1:]):
        style = _STYLES[finding.severity]
        where = f"{finding.split}: " if many else ""
        text = Text.assemble((finding.kind, f"bold {style}"), printable(f": {where}{finding.text}"))
        if finding.rows:
            text.append(f"\n{_rows(finding)}", style="dim")
        # What is to be done about several findings stands below the last of them.
        if following is None or (finding.kind, finding.remedy) != (following.kind, following.remedy):
            text.append(f"\n{printable(finding.remedy)}", style="italic")
        grid.add_row(Text(finding.severity, style=style), text)
    yield grid
    if inspection.nothing_of:
        yield Text(f"not found: {', '.join(inspection.nothing_of)}", style="green")


def _rows(finding: Finding) -> str:
    """Return the first rows of a finding, each with the row that it repeats."""
    if not finding.rows:
        return ""
    if finding.earlier_rows:
        both = zip(finding.rows, finding.earlier_rows, strict=True)
        shown = [f"{row} (as {earlier})" for row, earlier in both]
    else:
        shown = [str(row) for row in finding.rows]
    return f"row{'s' * (len(shown) > 1)} {', '.join(shown)}{', …' * (finding.count > len(shown))}"
