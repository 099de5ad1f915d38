"""``dpotrain schema``: the JSON schema of recipes."""

from __future__ import annotations

import click

from dpotrain.cli.group import debug_option


@click.command("schema", short_help="Print the JSON schema of recipes, for editors.")
@debug_option
def command() -> None:
    """Print the JSON schema of recipes that use the installed plugins, for editors that understand TOML.

    \b
    dpotrain schema > recipe.schema.json
    and then, as the first line of a recipe:
    #:schema ./recipe.schema.json
    """  # noqa: D301  # click wants the backspace itself
    import json

    from dpotrain.plugin.runtime.manager import PluginManager
    from dpotrain.recipe.schema import recipe_schema

    click.echo(json.dumps(recipe_schema(PluginManager.from_entry_points()), indent=2, ensure_ascii=False))
