"""Bfloat16 on a processor without products in it, and float16 anywhere: computed in float32, from upcast weights."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from dpotrain import load_recipe
from dpotrain.core.reporter import SilentReporter
from dpotrain.data.batches.packing import pack
from dpotrain.data.prepare import prepare_data
from dpotrain.engine.memory.model_size import count, trained_bytes
from dpotrain.engine.parallel.one_process import OneProcess
from dpotrain.engine.scoring.precision import UpcastWeights, compute_precision, multiplies_bfloat16
from dpotrain.engine.scoring.probe import choose_scorer
from dpotrain.engine.training.all_weights import AllWeights
from dpotrain.run.building.build import NO_BFLOAT16
from dpotrain.run.building.engine_builder import EngineBuilder
from dpotrain.run.planning.plan import make_plan
from dpotrain_plugins.lora import Lora
from tests.engine.pairs import random_pairs
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


def test_upcast_weights_come_back_as_they_were(processor):
    processor("without")
    model = tiny_model("llama").to(torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    upcast = UpcastWeights(model, "fp32", "cpu")
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


def half_precision(tmp_path, **options):
    """A recipe over a float16 checkpoint, and the same weights in float32 to compare with."""
    recipe = project(tmp_path, **options)
    weights = tmp_path / "model" / "model.safetensors"
    rounded = {name: tensor.half().float() for name, tensor in load_file(weights).items()}
    save_file(rounded, weights, {"format": "pt"})
    return recipe, rounded


FLOAT16 = 'model.dtype="float16"'


@pytest.mark.parametrize(
    ("precision", "optimizer", "when"),
    [("bf16", "adamw", "precomputed"), ("bf16", "adamw-8bit", "live"), ("fp32", "adamw", "live")],
)
def test_float16_weights_are_trained_in_float32(precision, optimizer, when, tmp_path, processor):
    """TRAPS: float16 moments that underflow: weights wrecked, loss falling."""
    processor("with bfloat16")
    recipe, before = half_precision(tmp_path)
    common = [
        "training.epochs=5",
        "optimizer.lr=1e-5",
        f'optimizer.use="{optimizer}"',
        'schedule.use="constant"',
    ]
    common += [f'training.precision="{precision}"', f'reference.when="{when}"']
    reporter = Recording()
    outcome = run(recipe, *common, FLOAT16, into=tmp_path / "half", reporter=reporter)
    run(recipe, *common, into=tmp_path / "single")
    # Everything but the last step, saving, is the same computation.
    assert losses(tmp_path / "half") == losses(tmp_path / "single")
    after = load_file(outcome.final / "model.safetensors")
    assert {tensor.dtype for tensor in after.values()} == {torch.float16}
    for name, tensor in after.items():
        most = 1.1 * 1e-5 * outcome.steps + torch.finfo(torch.float16).eps * before[name].abs() / 2
        assert ((tensor.float() - before[name]).abs() <= most).all(), name
    assert [note for note in reporter.notes if "float16 weights are held in float32" in note]
    assert not [text for text in reporter.warnings if "weights" in text]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral"])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_gradients_through_frozen_float16_weights_are_those_of_float32(kind, precision, processor):
    """As small as in a large model, where float16 has none left."""
    processor("with bfloat16")
    batch = pack(random_pairs([(11, 9, 14), (3, 1, 2)]), range(2))
    found = []
    for dtype in (torch.float16, torch.float32):
        model = tiny_model(kind).half().to(dtype)
        UpcastWeights(model, precision, "cpu")
        torch.manual_seed(0)
        policy = Lora(Lora.Options(rank=4)).attach(model)
        trained = [weight for weight in policy.parameters() if weight.requires_grad]
        for weight in trained:
            weight.data.normal_(0, 0.05)
        scorer = choose_scorer(policy, batch, packing="on", bf16=precision == "bf16").scorer
        sums = scorer(batch)
        gradients = torch.autograd.grad((sums[:, 0] - sums[:, 1]).sum() * 1e-7, trained)
        found.append(torch.cat([each.flatten() for each in gradients]))
    assert found[0].any()
    assert found[0].equal(found[1])


def test_frozen_float16_weights_of_linear_layers_stay_under_autocast(processor):
    processor("with bfloat16")
    model = tiny_model("llama", tie_word_embeddings=True).half()
    upcast = UpcastWeights(model, "bf16", "cpu")
    held = {name: weight.dtype for name, weight in model.named_parameters()}
    assert held["model.layers.0.mlp.up_proj.weight"] == torch.float16
    # The embedding, tied to the head, and the norms.
    assert {name for name, dtype in held.items() if dtype == torch.float32} == {
        name for name in held if "norm" in name or "embed" in name
    }
    model.lm_head.weight.requires_grad_(True)
    tensors = [*model.parameters(), *model.buffers()]
    assert upcast.float16_bytes == sum(each.nbytes for each in tensors if each.dtype == torch.float32)
    upcast.attach(AllWeights(AllWeights.Options()), model)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_buffers_of_a_quantized_model_stay(processor):
    processor("with bfloat16")
    model = tiny_model("llama").half()
    model.register_buffer("scales", torch.ones(4, dtype=torch.float16))
    model.is_quantized = True
    UpcastWeights(model, "fp32", "cpu")
    assert model.scales.dtype == torch.float16
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


@pytest.mark.soak
@pytest.mark.parametrize("merge", [False, True], ids=["adapter", "merged"])
def test_resuming_and_merging_with_a_float16_model(merge, tmp_path, processor):
    processor("with bfloat16")
    recipe, _ = half_precision(tmp_path, adapter=True)
    common = [FLOAT16, 'training.precision="bf16"', "training.steps=4", f"adapter.merge={str(merge).lower()}"]
    whole = run(recipe, *common, into=tmp_path / "whole")
    stopped = run(recipe, *common, into=tmp_path / "stopped", reporter=Recording(stop_at=2))
    assert stopped.status == "stopped"
    resumed = run(recipe, *common, into=tmp_path / "stopped", resume=True)
    (file,) = whole.final.glob("*.safetensors")
    one, two = load_file(file), load_file(resumed.final / file.name)
    assert all(tensor.equal(two[name]) for name, tensor in one.items())
    assert {tensor.dtype for tensor in one.values()} == {torch.float16 if merge else torch.float32}


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
def test_a_plan_counts_float16_weights_as_they_are_held(adapter, tmp_path, processor):
    processor("with bfloat16")
    recipe = load_recipe(
        project(tmp_path, adapter=adapter, hidden_size=512), [FLOAT16, 'training.precision="bf16"']
    )
    reporter = SilentReporter()
    data = prepare_data(recipe, recipe.model.load_tokenizer(), reporter)
    parts = make_plan(recipe, data).parts
    engine = EngineBuilder(recipe, OneProcess(torch.device("cpu")), data, reporter)
    policy = engine.load_policy(engine.adapter).model
    size = count(policy)
    assert parts["weights"] == size.bytes
    assert parts["gradients"] == trained_bytes(size.trained)
    optimizer = recipe.optimizer.build(
        {str(n): w for n, w in enumerate(policy.parameters()) if w.requires_grad}
    )
    moments = [value for state in optimizer.state.values() for value in state.values()]
    assert {moment.dtype for moment in moments} == {torch.float32}
    assert parts["optimizer"] == sum(moment.nbytes for moment in moments)
