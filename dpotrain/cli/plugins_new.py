"""``dpotrain plugins new``: a complete package for a new plugin."""

from __future__ import annotations

from pathlib import Path

import click

from dpotrain.cli.group import debug_option


@click.command("new", short_help="Write the package of a new plugin, whose tests pass as generated.")
@click.argument("name")
@click.option("--kind", required=True, metavar="KIND", help="What it offers: loss, model-loader, command, …")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path(),
    help="Where the package's folder goes; the working directory unless given.",
)
@debug_option
def command(name: str, kind: str, folder: Path) -> None:
    """Write a package dpotrain-NAME that offers a component or a command called NAME.

    It has an entry point, typed options, a README, a recipe that runs, tests that pass, and a workflow that runs them.
    """
    from dpotrain.cli import COMMANDS
    from dpotrain.scaffold import generate
    from dpotrain.scaffold.kinds import kinds

    known = kinds(COMMANDS)
    kind = {"verb": "command"}.get(kind, kind)  # its name before 0.2
    if kind not in known:
        from dpotrain.core.errors import did_you_mean

        hint = did_you_mean(kind, known) or f"; there are {', '.join(known)}"
        raise click.UsageError(f'there is no kind "{kind}"{hint}')
    made = generate(name, known[kind], folder)
    click.echo(f"{made.folder} holds the plugin; to install, test and run it:")
    for line in (f"cd {made.folder}", *made.next_steps):
        click.echo(f"  {line}")
