"""``dpotrain check``: everything that can be known without the weights."""

from __future__ import annotations

from pathlib import Path

import click

from dpotrain.cli.arguments import RecipePath
from dpotrain.cli.group import debug_option, set_option


@click.command("check", short_help="Check a recipe and its data without loading the model.")
@click.argument("recipe", type=RecipePath())
@set_option
@debug_option
def command(recipe: Path, overrides: tuple[str, ...]) -> None:
    """Check RECIPE without loading the model.

    Checks its keys, plugins and files, builds the model without its weights, puts the first pairs through the
    tokenizer, and shows one of them.
    """
    from dpotrain.core.packages import import_transformers
    from dpotrain.plugin.runtime.failures import naming_components
    from dpotrain.recipe.load import load_recipe
    from dpotrain.ui import reporter

    loaded = load_recipe(recipe, overrides)
    import_transformers()
    from dpotrain.cli.preview import preview  # imports what a wrong recipe need not wait for

    with naming_components(loaded, loaded.plugins), reporter() as shown:
        lines = preview(loaded, shown)
    click.echo("\n".join(lines))
