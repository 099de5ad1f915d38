"""``dpotrain sync``: a run's records to its loggers once more."""

from __future__ import annotations

from pathlib import Path

import click

from dpotrain.cli.arguments import RunPath
from dpotrain.cli.group import debug_option, set_option


@click.command("sync", short_help="Send a run's records to its loggers once more.")
@click.argument("run", type=RunPath())
@click.option(
    "--to",
    "only",
    metavar="NAME",
    multiple=True,
    help="Only to this logger, also one that the run's recipe does not have. May be given several times.",
)
@set_option
@debug_option
def command(run: Path, only: tuple[str, ...], overrides: tuple[str, ...]) -> None:
    """Send the records of RUN, a run folder, to the loggers of its recipe once more, and how the run ended.

    For loggers that were dropped, for a run that was killed, or for another logger than the recipe's. Secrets
    are not in a run folder: a logger that takes one needs --set loggers.0.KEY=VALUE.

    \b
    Exit codes: 0 all was sent, 1 a logger failed or a line is damaged, 2 there is no such run or logger.
    """  # noqa: D301  # click wants the backspace itself
    from dpotrain.core.errors import RunError
    from dpotrain.core.formats import count, printable
    from dpotrain.report.replay import replay

    replayed = replay(
        run, lambda text: click.echo(f"note: {printable(text)}"), overrides=overrides, only=only
    )
    outcome, number = replayed.outcome, count(replayed.records)
    for logger in replayed.sent:
        click.echo(
            f"{printable(logger)} has {number} records, to step {count(replayed.last_step)}, and how the run ended: "
            f"{outcome.status}"
        )
    if outcome.error:
        click.echo(f"note: {printable(outcome.error)}")
    if replayed.problems:
        raise RunError("\n".join(replayed.problems))
