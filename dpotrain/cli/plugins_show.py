"""``dpotrain plugins show``: everything about one plugin."""

from __future__ import annotations

import click

from dpotrain.cli.completing import complete_plugin
from dpotrain.cli.group import debug_option


@click.command("show", short_help="Show one plugin with its options and a table to paste into a recipe.")
@click.argument("name", shell_complete=complete_plugin)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@debug_option
def command(name: str, as_json: bool) -> None:
    """Show the plugin called NAME, or the one that offers a component, a kind or a command of that name.

    Distribution, version, licence, file and hooks; the kinds that it declares, and what serves them; the options of its
    components, and the keys of tables in them, with what they take, their defaults and descriptions; for each component
    a table to paste into a recipe; and the help of its commands.
    """
    from dpotrain.cli import COMMANDS
    from dpotrain.plugin.describe.page import pages
    from dpotrain.plugin.runtime.commands import plugin_commands
    from dpotrain.plugin.runtime.manager import PluginManager

    found = pages(PluginManager.from_entry_points(), plugin_commands(COMMANDS), name)
    if as_json:
        import json

        click.echo(json.dumps([page.as_json() for page in found], indent=2, ensure_ascii=False))
        return
    from dpotrain.ui.plugin_page import page_text

    click.echo("\n\n".join(map(page_text, found)))
