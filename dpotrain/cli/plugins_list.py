"""``dpotrain plugins list``: what is installed, what it offers, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import click

from dpotrain.cli.arguments import RecipePath
from dpotrain.cli.group import debug_option, set_option


@click.command("list", short_help="Show every plugin (what `dpotrain plugins` does by itself).")
@click.argument("recipe", type=RecipePath(), required=False)
@set_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--trace", is_flag=True, help="Show which plugins a dry run of RECIPE calls, in order.")
@debug_option
def command(recipe: Path | None, overrides: tuple[str, ...], as_json: bool, trace: bool) -> None:
    """Show every installed plugin: what it offers, where it comes from, and its status.

    With RECIPE, the plugins that it selects are active and those that it blocks are blocked; without one,
    whatever works is unused. Commands of plugins are listed as well; a recipe does not select them.
    """
    from dpotrain.cli import COMMANDS
    from dpotrain.core.formats import printable
    from dpotrain.plugin.describe.listing import with_commands
    from dpotrain.plugin.runtime.commands import plugin_commands
    from dpotrain.plugin.runtime.manager import PluginManager
    from dpotrain.ui.plugins_table import print_json, print_plugins

    if recipe is None:
        if overrides:
            raise click.UsageError("--set needs a RECIPE to override.")
        if trace:
            raise click.UsageError("--trace needs a RECIPE to go through.")
        infos = PluginManager.from_entry_points().infos()
    else:
        from dpotrain.recipe.load import load_recipe

        loaded = load_recipe(recipe, overrides)
        if trace:
            from dpotrain.run.planning.dry_run import dry_run

            click.echo(printable("\n".join(dry_run(loaded))))
            return
        infos = loaded.plugins.infos(loaded)
    infos = with_commands(infos, plugin_commands(COMMANDS).values())
    if as_json:
        print_json(infos)
    else:
        print_plugins(infos)
