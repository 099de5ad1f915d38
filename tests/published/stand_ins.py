"""Published recipes with local models and data in the place of those on the hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from dpotrain import load_recipe
from tests.published.architectures import ARCHITECTURES, MODELS, Architecture, write_published, write_tiny
from tests.published.data import ROWS, mixed, write_set, write_smoltalk

FOLDER = Path(__file__).parent.parent.parent / "recipes" / "published"
RECIPES = sorted(FOLDER.glob("*.toml"))
GUIDE = FOLDER.parent / "README.md"


def architecture_of(recipe: Path) -> Architecture:
    return ARCHITECTURES[MODELS[load_recipe(recipe).model.options.name]]


def published_size(recipe: Path, folder: Path, longest: int = 0) -> list[str]:
    """Return overrides: a model folder of the published shape without weights, and a local data set.

    The longest pair has two answers of at least ``longest`` tokens.
    """
    model = write_published(folder / "model", architecture_of(recipe))
    return [f"model.name={model}", *_of_hub_names(recipe), *_data(recipe, folder, longest)]


def tiny(recipe: Path, folder: Path) -> list[str]:
    """Return overrides: a tiny model of the same class, and a local data set."""
    model = write_tiny(folder / "model", architecture_of(recipe))
    return [f"model.name={model}", *_of_hub_names(recipe), *_data(recipe, folder)]


def _of_hub_names(recipe: Path) -> Iterator[str]:
    if load_recipe(recipe).model.options.revision is not None:
        yield "model.revision=false"


def _data(recipe: Path, folder: Path, longest: int = 0) -> Iterator[str]:
    yield f"run.output_dir={folder / 'run'}"
    yield "run.cache_dir=false"
    for number, data_set in enumerate(load_recipe(recipe).data_sets):
        options = data_set.source.options
        place = folder / f"data-{number}"
        if options.config is not None:
            name: str | dict[str, str] = write_smoltalk(place, longest=longest)
        else:
            splits = [split for split in (data_set.train_split, data_set.eval_split) if split is not None]
            name = write_set(place, ROWS.get(options.name, mixed), splits, longest=longest)
        yield f"{data_set.address}.name={_toml(name)}"
        if data_set.amount is not None and data_set.amount.pairs is not None:
            yield f"{data_set.address}.pairs=4"


def _toml(name: str | dict[str, str]) -> str:
    if isinstance(name, str):
        return json.dumps(name)
    return "{ " + ", ".join(f"{key} = {json.dumps(value)}" for key, value in name.items()) + " }"
