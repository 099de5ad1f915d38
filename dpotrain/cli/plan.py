"""``dpotrain plan``: memory and time of a run, without loading its weights."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dpotrain.cli.arguments import RecipePath
from dpotrain.cli.group import debug_option, set_option

if TYPE_CHECKING:
    from dpotrain.recipe.recipe import Recipe

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def read_size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Read a size as people write it: ``24GB``, ``80 GiB``; powers of 1024 either way, as GPUs are sold."""
    if value is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", value.lower())
    if found is None or not float(found[1]):
        raise click.BadParameter(f"{value!r} is not a size; write it as 24GB", ctx, param)
    return int(float(found[1]) * _UNITS[found[2]])


@click.command("plan", short_help="Predict the memory of a run, by part, and its time.")
@click.argument("recipe", type=RecipePath())
@set_option
@click.option(
    "--memory", callback=read_size, metavar="SIZE", help="Plan for a GPU with so much memory, such as 24GB."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; sizes are bytes.")
@debug_option
def command(recipe: Path, overrides: tuple[str, ...], memory: int | None, as_json: bool) -> None:
    """Predict the memory of RECIPE on this machine's GPU or CPU, by part, its steps and its time.

    Tokenizes the data and counts the model from its configuration; no weights are loaded. Where the run does not
    fit, it lists what to change.
    """
    from dpotrain.core.packages import import_transformers
    from dpotrain.core.reporter import SilentReporter, showing_warnings
    from dpotrain.plugin.runtime.failures import naming_components
    from dpotrain.recipe.load import load_recipe
    from dpotrain.ui import reporter

    loaded = load_recipe(recipe, overrides)
    import_transformers()
    from dpotrain.core.paths import cache_folder
    from dpotrain.data.prepare import prepare_data  # imports what a wrong recipe need not wait for
    from dpotrain.run.folder.log import logging_to
    from dpotrain.run.folder.restrict_umask import restrict_umask
    from dpotrain.run.planning.plan import make_plan

    with (
        naming_components(loaded, loaded.plugins),
        restrict_umask(),
        SilentReporter() if as_json else reporter() as shown,
        # What libraries say of themselves is in a run's log; here there is none.
        logging_to(Path(os.devnull), shown.warn),
        showing_warnings(shown),
    ):
        cache = cache_folder(loaded.run.cache_dir)
        data = prepare_data(loaded, loaded.model.load_tokenizer(), shown, cache=cache)

        def reload(more: Sequence[str]) -> Recipe:
            return load_recipe(recipe, (*overrides, *more), plugins=loaded.plugins)

        plan = make_plan(loaded, data, memory, reload)
    if as_json:
        import json

        click.echo(json.dumps(plan.as_json(), indent=2))
        return
    from dpotrain.ui.plan import print_plan

    print_plan(plan, command=(str(recipe), *(word for each in overrides for word in ("--set", each))))
