"""``dpotrain checkpoints``: what a run can be picked up from, and whether it is whole."""

from __future__ import annotations

from pathlib import Path

import click

from dpotrain.cli.arguments import RunPath
from dpotrain.cli.group import debug_option


@click.command("checkpoints", short_help="List a run's checkpoints and verify them.")
@click.argument("run", type=RunPath())
@click.option("--json", "as_json", is_flag=True, help="Print JSON; sizes are bytes.")
@debug_option
@click.pass_context
def command(ctx: click.Context, run: Path, as_json: bool) -> None:
    """List the checkpoints of RUN, a run folder, and compare every file with its hash.

    \b
    Exit codes: 0 all are valid, 1 one is damaged, 2 the run does not exist.
    """  # noqa: D301  # click wants the backspace itself
    from dpotrain.report.inventory import take_inventory

    entries = take_inventory(run)
    if as_json:
        import json

        click.echo(json.dumps([entry.as_json() for entry in entries], indent=2))
    else:
        from dpotrain.ui.checkpoints_table import checkpoints_table
        from dpotrain.ui.console import open_console

        open_console().print(checkpoints_table(run, entries), soft_wrap=True)
    if any(entry.fault for entry in entries):
        ctx.exit(1)
