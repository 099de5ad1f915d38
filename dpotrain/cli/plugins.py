"""``dpotrain plugins``: what is installed, what it offers, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import click

from dpotrain.cli.arguments import set_option
from dpotrain.cli.group import debug_option


@click.command("plugins", short_help="Show the installed plugins and what they offer.")
@click.argument("recipe", type=click.Path(path_type=Path), required=False)
@set_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@debug_option
def command(recipe: Path | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show every installed plugin: what it offers, where it comes from, and its status.

    With RECIPE, the plugins that it selects are active and those that it blocks are blocked; without one,
    whatever works is unused.
    """
    from dpotrain.plugin.listing import print_json, print_plugins
    from dpotrain.plugin.manager import PluginManager

    if recipe is None:
        if overrides:
            raise click.UsageError("--set needs a RECIPE to override.")
        infos = PluginManager.from_entry_points().infos()
    else:
        from dpotrain.recipe import load_recipe

        loaded = load_recipe(recipe, overrides)
        infos = loaded.plugins.infos(loaded)
    if as_json:
        print_json(infos)
    else:
        print_plugins(infos)
