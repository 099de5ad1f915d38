"""``dpotrain compare``: several runs side by side."""

from __future__ import annotations

from pathlib import Path

import click

from dpotrain.cli.group import debug_option


@click.command("compare", short_help="Compare runs: recipes, results, curves, pair by pair.")
@click.argument("runs", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@debug_option
def command(runs: tuple[Path, ...], as_json: bool) -> None:
    """Compare RUNS, two or more run folders: the keys in which their recipes differ, last evaluations, curves.

    Where runs have scored the same held-out pairs, the later ones are compared with the first pair by pair, with an
    exact McNemar test. Numbers that do not compare, because data, loss or evaluation sets differ, are named.
    """
    if len(runs) < 2:
        raise click.UsageError("name two run folders or more; dpotrain show RUN is for one")
    from dpotrain.report.comparison import compare
    from dpotrain.report.past_run import read_run

    found = compare([read_run(run) for run in runs])
    if as_json:
        import json

        click.echo(json.dumps(found.as_json(), indent=2, default=str))
        return
    from dpotrain.ui.comparison import print_comparison

    print_comparison(found)
