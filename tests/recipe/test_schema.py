"""The JSON schema says what the loader says."""

import json
import tomllib
from pathlib import Path

import pytest

from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.recipe.document import dump_recipe
from dpotrain.recipe.schema import recipe_schema
from tests.recipe.mini_schema import valid
from tests.recipe.writing import MINIMAL, load

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))


@pytest.fixture(scope="module")
def schema(plugins):
    return json.loads(json.dumps(recipe_schema(plugins)))


def accepts(schema, text: str) -> bool:
    return valid(tomllib.loads(text), schema, schema)


def test_it_is_draft_2020_12(schema):
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


GOOD = [
    MINIMAL,
    MINIMAL + 'quantizer.use = "x"'.replace("quantizer.use", "weight_decay").replace('"x"', "0.1"),
    MINIMAL + '[quantizer]\nuse = "fake-4bit"\n[adapter]\nuse = "fake-lora"\nrank = 4\n',
    "adapter = false\n" + MINIMAL,
    MINIMAL + "[training]\nmax_grad_norm = false\nsteps = 3\n",
    MINIMAL + '[[loggers]]\nuse = "fake-log"\nnested = { cap = false }\ntoken = "x"\n',
    MINIMAL + '[data.format]\nuse = "fake-format"\nstrip = false\n',
    MINIMAL + 'use = "fake-sgd"\nmomentum = 0.9\n',
    MINIMAL + "[schedule]\nwarmup_fraction = 0.1\n",
    MINIMAL + '[[metrics]]\nuse = "fake-metric"\n[[exporters]]\nuse = "fake-export"\nto = "y"\n',
    'extends = "base.toml"\n',
    'extends = "base.toml"\n[loss]\nbeta = 0.2\n[optimizer]\nweight_decay = 0.1\n[data]\nlimit = 3\n',
]
BAD = [
    "",
    MINIMAL.replace("fake-dpo", "fake-dppo"),
    MINIMAL.replace("lr = 1e-5", ""),
    MINIMAL.replace("lr = 1e-5", "lr = 0"),
    MINIMAL.replace('name = "m"', ""),
    MINIMAL + 'use = "fake-sgd"\nbetas = [0.9, 0.99]\n',
    MINIMAL + "momentum = 0.9\n",
    MINIMAL + "[[metrics]]\nscale = 2\n",
    MINIMAL + "[training]\nstep = 3\n",
    MINIMAL + "[training]\nmax_grad_norm = true\n",
    MINIMAL + "[trainin]\n",
    MINIMAL + '[adapter]\nuse = "fake-lora"\nrank = "x"\n',
    "adapter = true\n" + MINIMAL,
    "model = false\n" + MINIMAL.replace('[model]\nuse = "fake-model"\nname = "m"\n', ""),
    MINIMAL + '[data.format]\nuse = "fake-formt"\n',
    MINIMAL + '[loggers]\nuse = "fake-log"\n',
    'extends = "base.toml"\n[loss]\nbta = 0.2\n',
    "extends = 3\n",
]


@pytest.mark.parametrize("text", GOOD)
def test_it_accepts_what_the_loader_accepts(schema, plugins, text):
    load(text, plugins=plugins)
    assert accepts(schema, text)


@pytest.mark.parametrize("text", BAD)
def test_it_refuses_what_the_loader_refuses(schema, plugins, text):
    from dpotrain.core.errors import RecipeError

    with pytest.raises(RecipeError):
        load(text, plugins=plugins)
    assert not accepts(schema, text)


def test_it_accepts_a_resolved_recipe(schema, plugins):
    text = MINIMAL + '[adapter]\nuse = "fake-lora"\n[[loggers]]\nuse = "fake-log"\nlimit = false\n'
    assert accepts(schema, dump_recipe(load(text, plugins=plugins)))


def test_every_key_has_a_description_for_the_editor(schema):
    def undescribed(node, path=()):
        for key, inner in node.get("properties", {}).items():
            if key in node.get("required", ()) or "description" in inner or len(path) < 1:
                continue
            yield (*path, key)
        for key, inner in node.get("properties", {}).items():
            yield from undescribed(inner, (*path, key))

    assert list(undescribed(schema["else"])) == []


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_it_accepts_the_example_recipes(path):
    installed = recipe_schema(PluginManager.from_entry_points())
    assert accepts(json.loads(json.dumps(installed)), path.read_text())
