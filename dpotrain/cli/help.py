"""``dpotrain help``: what ``--help`` shows."""

from __future__ import annotations

from typing import Any

import click
from click.shell_completion import CompletionItem

from dpotrain.cli.group import debug_option


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    root: Any = ctx.find_root().command
    return [
        item for item in root.shell_complete(ctx.find_root(), incomplete) if not item.value.startswith("-")
    ]


@click.command("help", short_help="Show the help of a command.")
@click.argument("words", nargs=-1, metavar="[COMMAND]...", shell_complete=_complete)
@debug_option
@click.pass_context
def command(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Show the help of COMMAND, or of dpotrain."""
    at = ctx.find_root()
    for word in words:
        group = at.command
        if not isinstance(group, click.Group):
            raise click.UsageError(f"{at.command_path} has no commands of its own", at)
        name, found, _ = group.resolve_command(at, [word])
        assert found is not None  # a name that does not exist is a usage error
        at = click.Context(found, info_name=name, parent=at)
    click.echo(at.get_help())
