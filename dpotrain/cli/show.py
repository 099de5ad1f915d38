"""``dpotrain show``: a run, from its folder."""

from __future__ import annotations

from pathlib import Path

import click

from dpotrain.cli.group import debug_option


@click.command("show", short_help="Show a run: curves, evaluations, samples, data.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every record.")
@debug_option
def command(run: Path, as_json: bool) -> None:
    """Show RUN, a run folder: its state, curves, evaluations, held-out pairs, samples, data and how to load the result.

    The run may be running, and may have been killed. Nothing in its folder is changed.
    """
    from dpotrain.report.past_run import read_run

    found = read_run(run)
    if as_json:
        import json

        from dpotrain.report.run_json import run_as_json

        click.echo(json.dumps(run_as_json(found), indent=2, default=str))
        return
    from dpotrain.ui.run_view import print_run

    print_run(found)
