"""``dpotrain plugins new``: a complete package for a new plugin."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from dpotrain.cli.group import debug_option

if TYPE_CHECKING:
    from dpotrain.scaffold.kinds import Kind


class _KindType(click.ParamType):  # type: ignore[type-arg]  # older versions of click have no type arguments
    """The name of a kind. The kinds are imported when one is asked for."""

    name = "kind"

    @staticmethod
    def known() -> dict[str, Kind]:
        """Return every kind by its name."""
        from dpotrain.cli import COMMANDS
        from dpotrain.scaffold.kinds import kinds

        return kinds(COMMANDS)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Kind:
        """Return the kind of that name."""
        from dpotrain.core.errors import did_you_mean

        known = self.known()
        name = {"verb": "command"}.get(value, value)  # its name before 0.2
        if name not in known:
            hint = did_you_mean(name, known) or f"; there are {', '.join(known)}"
            raise click.UsageError(f'there is no kind "{value}"{hint}', ctx)
        return known[name]

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None) -> str:
        """List the kinds."""
        return f"It is one of {', '.join(self.known())}"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Complete a kind's name."""
        found = self.known().items()
        return [CompletionItem(name, help=kind.about) for name, kind in found if name.startswith(incomplete)]


class _NewCommand(click.Command):
    """A command whose help lists the kinds."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a line a kind."""
        with formatter.section("Kinds"):
            formatter.write_dl([(name, kind.about) for name, kind in _KindType.known().items()])


@click.command(
    "new", cls=_NewCommand, short_help="Write the package of a new plugin, whose tests pass as generated."
)
@click.argument("name")
@click.option("--kind", required=True, type=_KindType(), help="What it offers; the kinds are listed below.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Where the package's folder goes; the working directory unless given.",
)
@debug_option
def command(name: str, kind: Kind, folder: Path) -> None:
    """Write a package dpotrain-NAME that offers a component or a command called NAME.

    It has an entry point, typed options, a README, a recipe that runs, tests that pass, and a workflow that runs them.
    """
    from dpotrain.scaffold import generate

    made = generate(name, kind, folder)
    click.echo(f"{made.folder} holds the plugin; to install, test and run it:")
    for line in (f"cd {shlex.quote(str(made.folder))}", *made.next_steps):
        click.echo(f"  {line}")
