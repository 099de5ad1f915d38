"""Every way of training a policy, end to end: it begins at ln 2 and learns, and the reference stands still."""

import math

import pytest
import torch
from safetensors.torch import load_file

from tests.run.recipes import Recording, losses, project, records, run

#: Overrides, and how far the first loss may be from ln 2.
WAYS = {
    "lora": ([], 1e-6),
    "rslora": (["adapter.rslora=true"], 1e-6),
    "dora": (["adapter.dora=true"], 1e-6),
    "lora on the head": (['adapter.target_modules=["q_proj", "lm_head"]'], 1e-6),
    "a module to save": (['adapter.modules_to_save=["lm_head"]'], 1e-6),
    "4-bit": (['quantizer.use="bnb-4bit"'], 1e-6),
    "4-bit, fp4, bf16": (
        ['quantizer.use="bnb-4bit"', 'quantizer.quant_type="fp4"', 'training.precision="bf16"'],
        2e-3,
    ),
    "8-bit": (['quantizer.use="bnb-8bit"'], 1e-6),
    "bf16 weights": (['model.dtype="bfloat16"', 'training.precision="bf16"'], 2e-3),
    "dropout": (["adapter.dropout=0.1", 'reference.when="precomputed"'], 0.05),
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    # Wide enough for bitsandbytes' blocks of 64 weights.
    return project(tmp_path_factory.mktemp("lora"), adapter=True, hidden_size=64, intermediate_size=128)


@pytest.mark.parametrize("way", WAYS)
def test_it_begins_at_ln_2_and_learns(recipe, way, tmp_path, processor):
    processor("with bfloat16")
    overrides, bar = WAYS[way]
    outcome = run(recipe, "optimizer.lr=5e-3", "training.epochs=3", *overrides, into=tmp_path / "run")
    got = losses(tmp_path / "run")
    assert got[0] == pytest.approx(math.log(2), abs=bar)
    assert got[-1] < got[0] - 0.05
    assert all(math.isfinite(loss) for loss in got)
    saved = load_file(outcome.final / "adapter_model.safetensors")
    assert any(tensor.any() for name, tensor in saved.items() if "lora_B" in name)
    assert all(tensor.dtype == torch.float32 for tensor in saved.values())


@pytest.mark.parametrize("way", ["bf16 weights", "4-bit, fp4, bf16", "dora"])
def test_so_it_does_where_float32_takes_the_place_of_bfloat16(recipe, way, tmp_path, processor):
    processor("without")
    overrides = [*WAYS[way][0], 'model.dtype="bfloat16"', 'training.precision="bf16"']
    run(recipe, "optimizer.lr=5e-3", "training.epochs=3", *overrides, into=tmp_path / "run")
    got = losses(tmp_path / "run")
    assert got[0] == pytest.approx(math.log(2), abs=1e-6)
    assert got[-1] < got[0] - 0.05


def test_training_goes_on_from_an_adapter_and_the_reference_is_that_adapter(recipe, tmp_path):
    """TRAPS: switching the adapter off yields the base model, not the policy one started from."""
    sft = run(recipe, "optimizer.lr=1e-2", into=tmp_path / "first").final
    results = {}
    for when in ("live", "precomputed"):
        overrides = [f"model.name={str(sft)!r}", f'reference.when="{when}"', "optimizer.lr=5e-3"]
        run(recipe, *overrides, into=tmp_path / when)
        results[when] = losses(tmp_path / when)
    assert results["live"][0] == pytest.approx(math.log(2), abs=1e-6)
    assert results["precomputed"] == pytest.approx(results["live"], abs=1e-5)
    # Had training begun at the base model, the first evaluation's log-probs would be the base model's.
    begun = records(tmp_path / "live", "eval")[0]["logps/chosen"]
    left = records(tmp_path / "first", "eval")
    assert begun == pytest.approx(left[-1]["logps/chosen"], abs=1e-3)
    assert abs(begun - left[0]["logps/chosen"]) > 0.1


def test_training_all_weights_of_a_model_with_an_adapter_merges_it(recipe, tmp_path):
    sft = run(recipe, "optimizer.lr=1e-2", into=tmp_path / "first").final
    outcome = run(recipe, f"model.name={str(sft)!r}", "adapter=false", into=tmp_path / "full")
    assert losses(tmp_path / "full")[0] == pytest.approx(math.log(2), abs=1e-6)
    assert (outcome.final / "model.safetensors").exists()
    begun = records(tmp_path / "full", "eval")[0]["logps/chosen"]
    assert begun == pytest.approx(records(tmp_path / "first", "eval")[-1]["logps/chosen"], abs=1e-3)


def test_dropout_the_user_asked_for_is_on_in_training_and_off_elsewhere(recipe, tmp_path):
    """TRAPS: "disable dropout" that also disables the LoRA dropout the user asked for."""
    results = []
    for dropout in (0.0, 0.5):
        overrides = [f"adapter.dropout={dropout}", "training.steps=3", "optimizer.lr=1e-2"]
        run(recipe, *overrides, into=tmp_path / str(dropout))
        results.append(tmp_path / str(dropout))
    plain, dropped = results
    assert losses(plain)[1:] != losses(dropped)[1:]
    # Before the first update the update is zero whatever is dropped, in training as in evaluation.
    assert losses(dropped)[0] == pytest.approx(math.log(2), abs=1e-6)
    assert records(dropped, "eval")[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_full_training_in_16_bits_is_pointed_out(recipe, tmp_path, processor):
    """TRAPS: adapters in bf16 lose their updates; so do pure-bf16 full weights."""
    processor("with bfloat16")
    reporter = Recording()
    overrides = ["adapter=false", 'model.dtype="bfloat16"', "training.steps=1", 'training.precision="bf16"']
    run(recipe, *overrides, into=tmp_path / "run", reporter=reporter)
    assert any("trained in bfloat16" in text for text in reporter.warnings)


def test_training_goes_on_from_an_adapter_with_dropout(recipe, tmp_path):
    """Its updates are not zero, so that dropout moves the policy in the first step already, and in any probe."""
    sft = run(recipe, "optimizer.lr=1e-2", into=tmp_path / "first").final
    overrides = [f"model.name={str(sft)!r}", "adapter.dropout=0.3", 'training.packing="on"']
    outcome = run(recipe, *overrides, into=tmp_path / "on")
    assert outcome.first_evaluation["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert outcome.status == "finished"


def test_a_model_that_is_not_the_tokenizers_is_refused_before_a_gpu_asserts(recipe, tmp_path):
    from dpotrain.core.errors import RunError
    from tests.support import tiny_model

    tiny_model(vocab_size=64).save_pretrained(tmp_path / "small")
    with pytest.raises(RunError, match="the reference has an embedding of 64 tokens"):
        run(recipe, f"reference.of={str(tmp_path / 'small')!r}", into=tmp_path / "run")
