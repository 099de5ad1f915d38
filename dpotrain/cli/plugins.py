"""``dpotrain plugins``: a group of commands, of which ``list`` is the default."""

from __future__ import annotations

import click

from dpotrain.cli.group import CommandGroup, debug_option

_COMMANDS = {
    "list": "dpotrain.cli.plugins_list",
    "show": "dpotrain.cli.plugins_show",
    "new": "dpotrain.cli.plugins_new",
}
_DEFAULT = "list"


class _PluginsGroup(CommandGroup):
    """A group in which a word that is not a command is an argument of the default command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Insert the default command where none is given."""
        words = [word for word in args if not word.startswith("-")]
        wants_help = bool({*args} & {*ctx.help_option_names})
        if not wants_help and (not words or words[0] not in _COMMANDS):
            args = [_DEFAULT, *args]
        return super().parse_args(ctx, args)


@click.group(
    "plugins",
    cls=_PluginsGroup,
    modules=_COMMANDS,
    short_help="Show the installed plugins and what they offer.",
    subcommand_metavar="[RECIPE | COMMAND] [ARGS]...",
)
@debug_option
def command() -> None:
    """Show every installed plugin: what it offers, where it comes from, and its status.

    With a RECIPE, the plugins that it selects are active and those that it blocks are blocked.
    """
