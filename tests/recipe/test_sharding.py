"""Sharded weights: what rules it out is refused in the recipe."""

import pytest

from dpotrain.plugin.runtime.manager import PluginManager
from tests.recipe.writing import load, refused

RECIPE = """\
[run]
output_dir = "runs/x"
[model]
use = "transformers"
name = "m"
[data]
use = "hf-datasets"
name = "d"
[loss]
use = "dpo"
[optimizer]
use = "{optimizer}"
lr = 1e-5
[parallel]
shard = "{shard}"
"""
LORA = '[adapter]\nuse = "lora"\n'
FOUR_BITS = '[quantizer]\nuse = "bnb-4bit"\n'


@pytest.fixture(scope="module")
def installed():
    return PluginManager.from_entry_points()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("optimizer", ["adamw", "lion"])
def test_optimizers_that_update_each_number_by_itself_take_shards_of_weights(optimizer, installed):
    recipe = load(RECIPE.format(optimizer=optimizer, shard="all"), plugins=installed)
    assert recipe.parallel.shard == "all"


@pytest.mark.parametrize("optimizer", ["adafactor", "muon", "adamw-8bit"])
def test_optimizers_that_need_whole_matrices_are_refused_unless_adapters_are_trained(optimizer, installed):
    text = RECIPE.format(optimizer=optimizer, shard="all")
    assert (
        f'[parallel] shard: optimizer: "{optimizer}" needs whole matrices to update them, and of sharded weights each '
        'process has some rows; take one that updates each number by itself, such as "adamw"; or set shard = "none"'
    ) in refused(text, plugins=installed)
    assert load(text + LORA, plugins=installed).parallel.shard == "all"
    assert load(RECIPE.format(optimizer=optimizer, shard="auto"), plugins=installed).parallel.shard == "auto"


def test_quantized_weights_are_refused(installed):
    text = RECIPE.format(optimizer="adamw", shard="all") + LORA + FOUR_BITS
    said = refused(text, plugins=installed)
    assert 'quantizer: weights in the format of "bnb-4bit" cannot be sharded over processes' in said


@pytest.mark.parametrize("key", ["group = 2", 'offload = "cpu"'])
def test_keys_of_sharded_weights_are_refused_where_none_are_sharded(key, installed):
    said = refused(RECIPE.format(optimizer="adamw", shard="none") + key, plugins=installed)
    assert f"{key.split()[0]} is for weights that are sharded" in said
    assert load(RECIPE.format(optimizer="adamw", shard="all") + key, plugins=installed)
