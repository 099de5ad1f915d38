"""``dpotrain run``: train what a recipe says."""

from __future__ import annotations

from pathlib import Path

import click

from dpotrain.cli.arguments import RecipePath
from dpotrain.cli.group import debug_option, set_option


@click.command("run", short_help="Train what a recipe says.")
@click.argument("recipe", type=RecipePath())
@set_option
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in the recipe's run folder.")
@click.option("--plain", is_flag=True, help="Show the run as plain lines, on a terminal too.")
@debug_option
def command(recipe: Path, overrides: tuple[str, ...], resume: bool, plain: bool) -> None:
    """Train what RECIPE, a TOML file, says.

    \b
    Exit codes: 0 done, 1 failed, 2 the recipe or the command line is wrong, 3 the data is wrong,
    75 stopped on a signal after saving (go on with --resume).
    """  # noqa: D301  # click wants the backspace itself
    from dpotrain.core.errors import RunStopped
    from dpotrain.recipe.load import load_recipe

    loaded = load_recipe(recipe, overrides)
    from dpotrain.ui import reporter
    from dpotrain.ui.train import train

    shown = reporter(plain=plain, evaluate_every=loaded.evaluation.every)
    outcome = train(loaded, resume=resume, reporter=shown)
    if outcome.status == "stopped":
        # How to go on stands in the closing summary.
        raise RunStopped(f"the run was stopped after step {outcome.steps} and its state is saved")
