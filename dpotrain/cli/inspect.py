"""``dpotrain inspect``: what the model sees of the data, and what is wrong with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dpotrain.cli.arguments import RecipePath
from dpotrain.cli.group import debug_option, set_option

if TYPE_CHECKING:
    from dpotrain.recipe.recipe import Recipe


@click.command("inspect", short_help="Show what the model sees of the data, and what is wrong with it.")
@click.argument("recipe", type=RecipePath())
@set_option
@click.option("--row", type=int, metavar="N", help="Show row N, the first being 0, or why it is dropped.")
@click.option("--split", metavar="NAME", help="Inspect this split alone.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@debug_option
def command(
    recipe: Path, overrides: tuple[str, ...], row: int | None, split: str | None, as_json: bool
) -> None:
    """Inspect the data of RECIPE without loading the model.

    Shows how rows are read, their lengths, what is wrong (duplicates, prompts shared by training and evaluation,
    contradictions, what gives the chosen answer away, ...) with rows and remedies, and a pair as the model sees it.

    Exit codes: 0 inspected, whatever was found; 2 the recipe or the command line is wrong; 3 no pair can be read.
    """
    from dpotrain.core.packages import import_transformers
    from dpotrain.core.reporter import SilentReporter, showing_warnings
    from dpotrain.plugin.runtime.failures import naming_components
    from dpotrain.recipe.load import load_recipe
    from dpotrain.ui import reporter

    loaded = load_recipe(recipe, overrides)
    # Imports what a wrong recipe need not wait for.
    import_transformers()
    from dpotrain.core.errors import DataError
    from dpotrain.core.paths import cache_folder
    from dpotrain.data.inspection.inspection import Inspection, inspect_data
    from dpotrain.data.inspection.row_view import RowView, row_view
    from dpotrain.data.prepare import DataReader
    from dpotrain.data.report import nothing_left
    from dpotrain.data.tokens.limits import Limits
    from dpotrain.run.folder.restrict_umask import restrict_umask
    from dpotrain.ui.inspection import print_inspection, print_row

    seen: Inspection | RowView
    name, loaded = (_split_of_mixture if loaded.data.sources else _split)(loaded, split, row)
    with naming_components(loaded, loaded.plugins), restrict_umask():
        with SilentReporter() if as_json else reporter() as shown:  # ends before anything is printed
            cache = cache_folder(loaded.run.cache_dir)
            with showing_warnings(shown):
                reader = DataReader.of(loaded, loaded.model.load_tokenizer(), shown, cache=cache)
            if row is None:
                seen = inspect_data(reader, reader.prepare(for_training=False), shown)
            else:
                seen = row_view(reader, name, row)
        if as_json:
            import json

            text = json.dumps(seen.as_json(), indent=2, ensure_ascii=False, default=str)
            click.echo(text.encode("utf-8", "replace").decode())
        elif isinstance(seen, RowView):
            print_row(seen)
        else:
            print_inspection(seen)
    if not isinstance(seen, RowView) and not seen.report.train_pairs:
        raise DataError(nothing_left(name, seen.report.splits[name], Limits.of(loaded.data)))


def _split(loaded: Recipe, split: str | None, row: int | None) -> tuple[str, Recipe]:
    """Return the split that is shown, and the recipe that reads it."""
    if split is not None and (row is None or split != loaded.data.eval_split):
        only = {"train_split": split, "eval_split": None, "eval_fraction": None}
        loaded = replace(loaded, data=loaded.data.model_copy(update=only))
    return split or loaded.data.train_split, loaded


def _split_of_mixture(loaded: Recipe, split: str | None, row: int | None) -> tuple[str, Recipe]:
    """Do the same where the recipe has several sources; a source's label alone is its training split.

    Raises:
        RecipeError: there is no such split.
    """
    from dpotrain.core.errors import RecipeError, did_you_mean

    names: dict[str, tuple[int, str]] = {}
    for number, each in enumerate(loaded.data_sets):
        for one in (each.train_split, each.eval_split):
            if one is not None:
                names[each.split_name(one)] = number, one
    if split is None:
        return next(iter(names)), loaded
    labels = {each.label: each.split_name(each.train_split) for each in loaded.data_sets}
    name = labels.get(split, split)
    if name not in names:
        raise RecipeError(
            f'there is no split "{split}"{did_you_mean(split, names)}\nThe mixture has: {", ".join(names)}.'
        )
    if row is None:
        number, one = names[name]
        table = loaded.data.sources[number].model_copy(update={"split": one, "eval_split": None})
        only = {"sources": [table], "eval_split": None, "eval_fraction": None}
        loaded = replace(loaded, data=loaded.data.model_copy(update=only))
    return name, loaded
