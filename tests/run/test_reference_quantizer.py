"""Another model as reference is loaded with a quantizer of its own, in the run and in what is planned of it."""

import math

import pytest

from dpotrain.core.errors import RecipeError
from dpotrain.core.reporter import SilentReporter
from dpotrain.data.prepare import prepare_data
from dpotrain.engine.memory.layout import ONE_DEVICE
from dpotrain.plugin.api import Quantizer
from dpotrain.recipe.load import load_recipe
from dpotrain.run.planning.description import describe
from tests.run.recipes import project, records, run

FEW = ("training.steps=1", "data.eval_fraction=0.0", "run.cache_dir=false")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    # bitsandbytes quantizes blocks of 64 numbers.
    return project(tmp_path_factory.mktemp("quantized"), hidden_size=64, intermediate_size=128)


def first_loss(recipe, folder, *keys) -> float:
    run(recipe, *FEW, f"reference.of={str(recipe.parent / 'model')!r}", *keys, into=folder)
    return records(folder)[0]["loss"]


def test_its_log_probs_are_those_of_the_quantized_weights(recipe, tmp_path):
    assert first_loss(recipe, tmp_path / "plain") == pytest.approx(math.log(2), abs=1e-6)
    quantized = [first_loss(recipe, tmp_path / when, f"reference.when={when}", "reference.quantizer=bnb-4bit")
                 for when in ("live", "precomputed")]  # fmt: skip
    assert abs(quantized[0] - math.log(2)) > 1e-4
    assert quantized[1] == pytest.approx(quantized[0], abs=1e-5)


def test_what_is_planned_counts_its_bits(recipe):
    found = []
    for keys in ([], ['reference.quantizer={ use = "bnb-4bit" }']):
        loaded = load_recipe(
            recipe, [*FEW, f"reference.of={str(recipe.parent / 'model')!r}", "reference.when=live", *keys]
        )
        data = prepare_data(loaded, loaded.model.load_tokenizer(), SilentReporter())
        found.append(sum(describe(loaded, data, "cpu").reference_bytes(ONE_DEVICE)))
    assert 0 < found[1] < 0.8 * found[0]


def test_it_is_a_component_of_the_recipe_and_not_the_policys(recipe):
    loaded = load_recipe(recipe, ["reference.of=other", "reference.quantizer=bnb-4bit"])
    assert [part.name for part in loaded.components if isinstance(part, Quantizer)] == ["bnb-4bit"]
    assert loaded.quantizer is None
    assert loaded.document["reference"]["quantizer"]["use"] == "bnb-4bit"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["reference.quantizer=bnb-4bit"], r"\[reference\] quantizer: the initial policy is loaded with \[quantizer\]"),
        (
            ["reference.of=other", 'reference.quantizer={ use = "bnb-4bit", kind = 3 }'],
            r"\[reference\.quantizer\] kind: bnb-4bit .* has no option",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_with_it_is_said(recipe, keys, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(recipe, keys)
