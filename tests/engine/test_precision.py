"""Bfloat16 on a processor without products in it: computed in float32, from weights that are upcast without loss."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from dpotrain import load_recipe
from dpotrain.core.reporter import SilentReporter
from dpotrain.data.prepare import prepare_data
from dpotrain.engine.scoring.precision import UpcastWeights, compute_precision, multiplies_bfloat16
from dpotrain.run.building.build import NO_BFLOAT16
from dpotrain.run.planning.plan import make_plan
from tests.run.recipes import Recording, losses, project, run
from tests.support import tiny_model


def test_only_a_cpu_can_lack_it(processor):
    processor("with bfloat16")
    assert multiplies_bfloat16("cpu")
    processor("without")
    assert not multiplies_bfloat16("cpu")
    assert multiplies_bfloat16("cuda")
    assert [compute_precision(wanted, "cpu") for wanted in ("bf16", "fp32")] == ["fp32", "fp32"]
    assert [compute_precision(wanted, "cuda") for wanted in ("bf16", "fp32")] == ["bf16", "fp32"]


def test_upcast_weights_come_back_as_they_were():
    model = tiny_model("llama").to(torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    upcast = UpcastWeights(model)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    with upcast.as_loaded():
        assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
        assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}


BF16 = ['model.dtype="bfloat16"', 'training.precision="bf16"']


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "merged"])
def test_steps_are_those_of_float32_and_the_result_is_as_wide_as_the_model_was(adapter, tmp_path, processor):
    processor("without")
    recipe = project(tmp_path, adapter=adapter)
    weights = tmp_path / "model" / "model.safetensors"
    rounded = {name: tensor.bfloat16().float() for name, tensor in load_file(weights).items()}
    save_file(rounded, weights, {"format": "pt"})
    merge = ["adapter.merge=true"] if adapter else []
    reporter, outcomes = Recording(), []
    for name, overrides in (("narrow", BF16), ("wide", [])):
        common = [f"run.output_dir={str(tmp_path / name)!r}", "training.steps=4", *merge]
        outcomes.append(run(recipe, *common, *overrides, reporter=reporter))
    assert losses(tmp_path / "narrow") == losses(tmp_path / "wide")
    assert reporter.notes.count(NO_BFLOAT16) == 1
    narrow, wide = (load_file(outcome.final / "model.safetensors") for outcome in outcomes)
    assert {tensor.dtype for tensor in narrow.values()} == {torch.bfloat16}
    if not adapter:  # merging adds in the weights' own dtype
        assert all(tensor.equal(wide[name].bfloat16()) for name, tensor in narrow.items())


def test_a_plan_counts_what_is_held(tmp_path, processor):
    processor("without")
    recipe = load_recipe(project(tmp_path, adapter=True), BF16)
    data = prepare_data(recipe, recipe.model.load_tokenizer(), SilentReporter())
    plan = make_plan(recipe, data)
    assert plan.parts["weights"] >= 4 * plan.parameters
    on_a_gpu = make_plan(recipe, data, memory=2**34)
    assert on_a_gpu.parts["weights"] < 3 * on_a_gpu.parameters
