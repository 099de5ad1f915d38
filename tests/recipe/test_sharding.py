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
QUANTIZED = '[quantizer]\nuse = "{}"\n'


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


def test_of_quantized_weights_those_are_refused_whose_layers_may_keep_more_than_is_sharded(installed):
    text = RECIPE.format(optimizer="adamw", shard="all") + LORA
    assert load(text + QUANTIZED.format("bnb-4bit"), plugins=installed).parallel.shard == "all"
    for other in ("bnb-8bit", "torchao-int8"):
        assert (
            f'[parallel] shard: quantizer: weights in the format of "{other}" cannot be sharded over processes: their '
            'layers may keep whole weights beside those that are sharded; take "bnb-4bit", whose layers keep none; or '
            'set shard = "none"'
        ) in refused(text + QUANTIZED.format(other), plugins=installed)


def test_a_quantizer_of_the_reference_rules_sharding_out_as_that_of_the_policy_does(installed):
    text = (
        RECIPE.format(optimizer="adamw", shard="all") + LORA + '[reference]\nof = "other"\nquantizer = "{}"\n'
    )
    assert load(text.format("bnb-4bit"), plugins=installed).parallel.shard == "all"
    assert 'reference.quantizer: weights in the format of "bnb-8bit"' in refused(
        text.format("bnb-8bit"), plugins=installed
    )


@pytest.mark.parametrize("key", ["group = 2", 'offload = "cpu"'])
def test_keys_of_sharded_weights_are_refused_where_none_are_sharded(key, installed):
    said = refused(RECIPE.format(optimizer="adamw", shard="none") + key, plugins=installed)
    assert f"{key.split()[0]} is for weights that are sharded" in said
    assert load(RECIPE.format(optimizer="adamw", shard="all") + key, plugins=installed)
