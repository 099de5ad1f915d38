"""Recipes of the fake plugin, written and read."""

from pathlib import Path

import pytest

from dpotrain.core.errors import DpotrainError, RecipeError
from dpotrain.recipe.load import load_recipe

#: The least that a recipe must say.
MINIMAL = """\
[run]
output_dir = "runs/x"

[model]
use = "fake-model"
name = "m"

[data]
use = "fake-rows"
name = "d"

[loss]
use = "fake-dpo"

[optimizer]
lr = 1e-5
"""


def load(text: str, *overrides: str, plugins, name: str = "r.toml"):
    """Write a recipe into the working directory and load it."""
    Path(name).write_text(text)
    return load_recipe(name, overrides, plugins=plugins)


def refused(text: str, *overrides: str, plugins, kind: type[DpotrainError] = RecipeError) -> str:
    """Return the message with which a recipe is refused."""
    with pytest.raises(DpotrainError) as caught:
        load(text, *overrides, plugins=plugins)
    assert type(caught.value) is kind
    return str(caught.value)
