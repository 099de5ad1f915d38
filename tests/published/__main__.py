"""``python -m tests.published [RECIPE …]`` writes which GPUs recipes need, by ``plan``, into headers and guide."""

import sys
import tempfile
from pathlib import Path

from dpotrain import load_recipe
from tests.published.hardware import cell, in_the_guide, planned, prepared, sentence, write, written
from tests.published.stand_ins import GUIDE, RECIPES, published_size


def main(names: list[str]) -> None:
    for recipe in RECIPES:
        if written(recipe) is None or (names and recipe.stem not in names):
            continue
        with tempfile.TemporaryDirectory() as folder:
            loaded = load_recipe(recipe)
            overrides = published_size(recipe, Path(folder), longest=loaded.data.max_length)
            data = prepared(recipe, overrides)
            gpus = planned(recipe, overrides, data).gpus
            assert gpus is not None
            text = sentence(recipe, overrides, data, gpus.as_is)
        write(recipe, text)
        print(f"{recipe.name}: {written(recipe)}", flush=True)
    guide = GUIDE.read_text(encoding="utf-8")
    for recipe in RECIPES:
        gpu = in_the_guide(recipe)
        guide = cell(recipe).sub(lambda found, gpu=gpu: f"{found[1]}{gpu}", guide)
    GUIDE.write_text(guide, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
