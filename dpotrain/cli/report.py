"""``dpotrain report``: a run, or several, as one HTML page."""

from __future__ import annotations

from pathlib import Path

import click

from dpotrain.cli.group import debug_option


@click.command("report", short_help="Write a run, or several, as one HTML page.")
@click.argument("runs", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    help="The page; report.html in the run folder unless given.",
)
@click.option(
    "--png",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Also write each chart into FOLDER as PNG.",
)
@debug_option
def command(runs: tuple[Path, ...], output: Path | None, png: Path | None) -> None:
    """Write a page about RUNS, one run folder or several to compare.

    The page is one file that needs no network: curves, evaluations, held-out pairs, samples, data, recipe. With
    several runs it is report.html in the current folder unless --output is given.
    """
    from dpotrain.report.past_run import read_run

    found = [read_run(run) for run in runs]
    if png is not None:
        from dpotrain.ui.page.pictures import write_pictures

        for picture in write_pictures(found, png):
            click.echo(picture)
    from dpotrain.core.atomic import write_text
    from dpotrain.core.write_errors import writing
    from dpotrain.ui.page.page import page

    target = output or (runs[0] / "report.html" if len(runs) == 1 else Path("report.html"))
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text(target, page(found))
    click.echo(target)
