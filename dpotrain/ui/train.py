"""``dpotrain.train``: a run from Python, shown as ``dpotrain run`` shows it."""

from __future__ import annotations

import os

from dpotrain.core.packages import import_transformers
from dpotrain.core.records import Outcome
from dpotrain.core.reporter import Reporter, SilentReporter
from dpotrain.recipe.recipe import Recipe
from dpotrain.ui import reporter as default_reporter


def train(recipe: Recipe, *, resume: bool = False, reporter: Reporter | None = None) -> Outcome:
    """Run a recipe and return how it ended.

    Args:
        recipe: what :func:`dpotrain.load_recipe` returned.
        resume: continue the run in the recipe's folder, or start one where there is none.
        reporter: shows the run; a live view on a terminal and plain lines elsewhere unless given.

    Returns:
        The outcome; its status is "stopped" if a signal ended the run after its state was saved.

    Raises:
        DpotrainError: the run failed (``summary.json`` in its folder has the error), or it finished and an exporter
            failed.
    """
    shown = default_reporter(evaluate_every=recipe.evaluation.every) if reporter is None else reporter
    # Of several processes the first alone shows anything; torch, which would know, is not imported yet.
    if os.environ.get("RANK", "0") != "0":
        shown = SilentReporter()
    with shown:
        with shown.phase("importing torch and transformers", None):
            import_transformers()
            from dpotrain.run.session import run_recipe

        return run_recipe(recipe, shown, resume=resume)
