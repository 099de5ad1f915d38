"""``dpotrain list``: all runs below a folder."""

from __future__ import annotations

from pathlib import Path

import click

from dpotrain.cli.group import debug_option

#: What runs can be ordered by; dpotrain.report.listing has them as a type.
_ORDERS = ("age", "name", "state", "step", "model", "loss", "accuracy", "duration")


@click.command("list", short_help="List the runs in a folder, with state and results.")
@click.argument("folder", type=click.Path(path_type=Path), default="runs")
@click.option(
    "--sort",
    "order",
    type=click.Choice(_ORDERS),
    default="age",
    show_default=True,
    help="Newest first, or the best loss or accuracy, the most steps, the longest first.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; times are seconds.")
@debug_option
def command(folder: Path, order: str, as_json: bool) -> None:
    """List the runs in and below FOLDER (runs/ unless given).

    State, step, model, losses, accuracy with its 95 % interval, time.
    """
    from dpotrain.report.listing import list_runs

    runs = list_runs(folder, order)  # type: ignore[arg-type]
    if as_json:
        import json

        click.echo(json.dumps([run.as_json() for run in runs], indent=2))
        return
    from dpotrain.ui.runs_table import print_runs

    print_runs(folder, runs)
