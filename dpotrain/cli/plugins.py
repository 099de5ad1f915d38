"""``dpotrain plugins``: a group of its own, whose first verb may be left out."""

from __future__ import annotations

import click

from dpotrain.cli.group import VerbGroup, debug_option

_VERBS = {
    "list": "dpotrain.cli.plugins_list",
    "show": "dpotrain.cli.plugins_show",
    "new": "dpotrain.cli.plugins_new",
}
_FIRST = "list"


class _PluginsGroup(VerbGroup):
    """A group in which whatever is no verb is an argument of the first one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the first verb where none is given."""
        words = [word for word in args if not word.startswith("-")]
        wants_help = bool({*args} & {*ctx.help_option_names})
        if not wants_help and (not words or words[0] not in _VERBS):
            args = [_FIRST, *args]
        return super().parse_args(ctx, args)


@click.group(
    "plugins",
    cls=_PluginsGroup,
    verbs=_VERBS,
    short_help="Show the installed plugins and what they offer.",
    subcommand_metavar="[RECIPE | COMMAND] [ARGS]...",
)
@debug_option
def command() -> None:
    """Show every installed plugin: what it offers, where it comes from, and its status.

    With a RECIPE, the plugins that it selects are active and those that it blocks are blocked.
    """
