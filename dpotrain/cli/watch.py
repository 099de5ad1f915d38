"""``dpotrain watch``: the view of a run elsewhere."""

from __future__ import annotations

from pathlib import Path

import click

from dpotrain.cli.group import debug_option


@click.command("watch", short_help="Show a run that goes on elsewhere.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--once", is_flag=True, help="Print one picture of the run as it is now.")
@click.option("--plain", is_flag=True, help="Show the run as plain lines, on a terminal too.")
@debug_option
@click.pass_context
def command(ctx: click.Context, run: Path, once: bool, plain: bool) -> None:
    """Show the run whose folder is RUN as `dpotrain run` shows it, until it ends; q leaves it alone.

    It reads the folder, which may be that of another machine on a shared disk; over ssh, run it there. Keys ask the
    run to save, to evaluate and to stop.

    \b
    Exit codes: 0 the run finished or goes on, 1 it failed or was killed, 2 there is no such run, 75 it was stopped.
    """  # noqa: D301  # click wants the backspace itself
    from dpotrain.core.errors import RunStopped
    from dpotrain.ui.watch import watch

    outcome = watch(run, plain=plain, once=once)
    if outcome is not None and outcome.status != "finished":
        ctx.exit(RunStopped.exit_code if outcome.status == "stopped" else 1)
