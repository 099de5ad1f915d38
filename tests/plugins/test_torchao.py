"""8-bit weights of torchao: what they compute, what they keep in memory, that LoRA is trained beside them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM, TorchAoConfig

from dpotrain import load_recipe, train
from dpotrain.core.errors import RecipeError, RunError
from dpotrain.core.reporter import SilentReporter
from dpotrain.engine.memory.model_size import count
from dpotrain.engine.scoring.precision import UpcastWeights
from dpotrain.plugin.api import LoadRequest
from dpotrain_plugins.lora import Lora
from dpotrain_plugins.merge.merging import merge
from dpotrain_plugins.quantizers.torchao import TorchAoInt8, dpotrain_quantizers
from dpotrain_plugins.transformers_loader import TransformersLoader
from tests.plugins.quantized import IDS, forward, input_gradient
from tests.run.recipes import losses, project
from tests.support import tiny_checkpoint

pytest.importorskip("torchao", reason="needs torchao")
from torchao.quantization import (
    Int8DynamicActivationInt8WeightConfig,
    Int8Tensor,
    Int8WeightOnlyConfig,
    PerGroup,
    quantize_,
)

from dpotrain_plugins.quantizers.int8_linear import Int8Linear, convert

AUTOCAST = pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
QUANTIZED = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
INT8 = 'quantizer.use="torchao-int8"'


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantized")
    return tiny_checkpoint(folder, "qwen2", hidden_size=64, intermediate_size=128)


def quantizer(**options):
    return TorchAoInt8(TorchAoInt8.Options(**options))


def load(folder, part=None, *, device="cpu", dtype="float32", prepare=True, keep_adapter=False):
    loader = TransformersLoader(TransformersLoader.Options(name=str(folder), dtype=dtype))
    quantization = None if part is None else part.loading_config()
    model = loader.load_model(
        LoadRequest(quantization=quantization, device=device, keep_adapter=keep_adapter)
    )
    if part is not None and prepare:
        part.prepare(model)
    return model


def log_probs(model):
    return forward(model.eval()).float().log_softmax(-1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_weights_are_those_that_torchao_rounded(checkpoint, dtype):
    torchaos = load(checkpoint, quantizer(), dtype=dtype, prepare=False)
    model = load(checkpoint, quantizer(), dtype=dtype)
    for name, layer in model.named_modules():
        if isinstance(layer, Int8Linear):
            weight = torchaos.get_submodule(name).weight
            assert type(weight) is Int8Tensor
            assert torch.equal(layer.weight, weight.dequantize(torch.float32))


def test_logits_are_nearly_those_of_the_unquantized_model(checkpoint):
    quantized, plain = load(checkpoint, quantizer()), load(checkpoint)
    assert nn.functional.cosine_similarity(forward(quantized), forward(plain), dim=-1).min() > 0.998
    # In nats, where bitsandbytes' 4 bits move this model's by several tenths.
    assert (log_probs(quantized) - log_probs(plain)).abs().mean() < 0.05


@AUTOCAST
def test_logits_and_gradients_are_those_of_torchaos_own_product(checkpoint, autocast):
    mine, theirs = (load(checkpoint, quantizer(), prepare=prepare) for prepare in (True, False))
    theirs.requires_grad_(False)
    for one, other in zip(input_gradient(mine, autocast), input_gradient(theirs, autocast), strict=True):
        close = nn.functional.cosine_similarity(one.float(), other.float(), dim=-1)
        assert close.min() > (0.99 if autocast else 1 - 1e-5)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(1, 5), max_size=3),
    inside=st.integers(2, 40),
    outside=st.integers(1, 40),
    bias=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    empty_row=st.booleans(),
)
def test_a_layer_is_the_linear_layer_of_its_rounded_weight(shape, inside, outside, bias, dtype, empty_row):
    torch.manual_seed(inside * outside)
    layer = nn.Linear(inside, outside, bias=bias, dtype=dtype)
    if empty_row:
        layer.weight.data[0] = 0
    model = nn.Sequential(layer)
    quantize_(model, Int8WeightOnlyConfig(set_inductor_config=False))
    convert(model)
    model.requires_grad_(False)
    plain = nn.Linear(inside, outside, bias=bias)
    plain.weight.data = model[0].weight
    if bias:
        plain.bias.data = layer.bias.float()
    hidden = torch.randn(*shape, inside).to(dtype)
    found, expected = (each.clone().requires_grad_() for each in (hidden, hidden.float()))
    one, other = model(found), plain(expected)
    assert (one.dtype, one.shape) == (dtype, other.shape)
    towards = torch.randn_like(one)
    one.backward(towards)
    other.backward(towards.float())
    rounding = {"atol": 5e-2, "rtol": 2e-2} if dtype == torch.bfloat16 else {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(one.float(), other, **rounding)
    torch.testing.assert_close(found.grad.float(), expected.grad, **rounding)


def test_a_layer_keeps_the_dtype_of_what_comes_in(checkpoint):
    model = load(checkpoint, quantizer())
    assert model.model.layers[0].mlp.up_proj(torch.randn(3, 64)).dtype == torch.float32


def kept(model, autocast):
    """Shapes and dtypes of what a forward pass keeps for its backward pass."""
    found = []
    embedded = model.get_input_embeddings()(IDS).detach().requires_grad_()

    def note(tensor):
        found.append((tuple(tensor.shape), tensor.dtype))
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        model(inputs_embeds=embedded)
    return found


@AUTOCAST
def test_no_dequantized_weight_is_kept_for_the_backward_pass(checkpoint, autocast):
    model = load(checkpoint, quantizer())
    weights = {tuple(layer.quantized.shape) for layer in model.modules() if isinstance(layer, Int8Linear)}
    weights |= {shape[::-1] for shape in weights}
    assert {dtype for shape, dtype in kept(model, autocast) if shape in weights} == {torch.int8}
    torchaos = load(checkpoint, quantizer(), prepare=False)
    torchaos.requires_grad_(False)
    assert any(dtype.is_floating_point for shape, dtype in kept(torchaos, autocast) if shape in weights), (
        "torchao has mended it: its own product could be used"
    )


def test_the_forecast_counts_the_bytes_that_are_there(checkpoint):
    part = quantizer(skip_modules=["down_proj"])
    request = LoadRequest(device="meta")
    blueprint = TransformersLoader(
        TransformersLoader.Options(name=str(checkpoint), dtype="float32")
    ).blueprint(request)
    bits = {id(blueprint.get_parameter(name)): width for name, width in part.bits(blueprint).items()}
    planned, loaded = count(blueprint, bits), count(load(checkpoint, part))
    assert (planned.bytes, planned.parameters) == (loaded.bytes, loaded.parameters)


def test_weights_that_are_widened_for_the_processor_leave_the_quantized_ones_alone(checkpoint, processor):
    model = load(checkpoint, quantizer(), dtype="bfloat16")
    rounded = model.model.layers[0].mlp.up_proj.weight
    processor("without")
    upcast = UpcastWeights(model, "fp32", "cpu")
    with upcast.as_loaded():
        assert model.lm_head.weight.dtype == torch.bfloat16
    assert forward(model).dtype == torch.float32
    assert torch.equal(model.model.layers[0].mlp.up_proj.weight, rounded)


def test_dora_reads_the_rounded_weights(checkpoint):
    """It divides by their norm: a fresh one changes nothing, unless it takes the integers for the weights."""
    model = load(checkpoint, quantizer())
    before = forward(model)
    policy = Lora(Lora.Options(rank=4, dora=True)).attach(model)
    torch.testing.assert_close(forward(policy), before, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The run folder of a LoRA run beside 8-bit weights, a packed one."""
    recipe = project(tmp_path_factory.mktemp("run"), adapter=True)
    train(load_recipe(recipe, [INT8, "optimizer.lr=1e-2"]), reporter=SilentReporter())
    return recipe.parent / "run"


def test_a_run_begins_at_ln_2_and_learns(run):
    found = losses(run)
    assert found[0] == pytest.approx(math.log(2), abs=1e-6)
    assert found[-1] < found[0] - 0.05


@pytest.mark.parametrize(
    "way",
    [
        "training.tokens_per_microbatch=60",
        'training.packing="off"',
        "training.activation_checkpointing=true",
        'reference.when="precomputed"',
    ],
)
def test_losses_are_the_same_however_they_are_computed(run, way, tmp_path):
    overrides = [INT8, "optimizer.lr=1e-2", f"run.output_dir={str(tmp_path / 'run')!r}", way]
    train(load_recipe(run.parent / "recipe.toml", overrides), reporter=SilentReporter())
    assert losses(tmp_path / "run") == pytest.approx(losses(run), abs=1e-5)


@pytest.mark.soak
def test_two_processes_give_the_losses_of_one(run, forked, tmp_path):
    """torchao's own tensors cannot be sent to the other process."""
    overrides = [INT8, "optimizer.lr=1e-2", f"run.output_dir={str(tmp_path / 'run')!r}"]
    done = forked.ranks(run.parent / "recipe.toml", overrides)
    assert [ended.code for ended in done] == [0, 0], done
    assert losses(tmp_path / "run") == pytest.approx(losses(run), abs=1e-5)


def test_the_adapter_loads_with_plain_peft_on_a_base_quantized_or_not(run):
    folder = run.parent / "model"
    quantization = TorchAoConfig(Int8WeightOnlyConfig())
    plain, quantized = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **more)
        for more in ({}, {"quantization_config": quantization})
    )
    before = log_probs(plain)
    trained = log_probs(PeftModel.from_pretrained(plain, run / "final"))
    moved = (trained - before).abs().mean()
    assert moved > 0.05
    # On either base it makes the same of the model, up to what 8 bits cost.
    other = log_probs(PeftModel.from_pretrained(quantized, run / "final"))
    assert (other - trained).abs().mean() < 0.1 * moved


def test_the_weights_are_merged_as_they_were_rounded(run, tmp_path):
    """TRAPS: an adapter that was trained on rounded weights, merged into others."""
    result = merge(run / "final", tmp_path / "merged", quantizer=quantizer())
    unmerged = log_probs(PeftModel.from_pretrained(load(run.parent / "model", quantizer()), run / "final"))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert getattr(merged.config, "quantization_config", None) is None
    torch.testing.assert_close(log_probs(merged), unmerged, atol=1e-4, rtol=0)
    assert result.difference < 1e-4
    merge(run / "final", tmp_path / "whole")
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype=torch.float32)
    assert (log_probs(whole) - unmerged).abs().max() > 1e-3


def test_gpt2s_transposed_layers_are_none_that_torchao_quantizes(tmp_path):
    tiny_checkpoint(tmp_path, "gpt2", n_embd=64)
    with pytest.raises(RunError, match="quantized nothing: GPT2LMHeadModel"):
        load(tmp_path, quantizer())


def test_a_checkpoint_that_was_saved_quantized_is_trained_beside(checkpoint, tmp_path):
    saved = AutoModelForCausalLM.from_pretrained(
        checkpoint, quantization_config=TorchAoConfig(Int8WeightOnlyConfig())
    )
    saved.save_pretrained(tmp_path)
    assert torch.equal(forward(load(tmp_path, quantizer())), forward(load(checkpoint, quantizer())))


@pytest.mark.parametrize(
    "other", [Int8WeightOnlyConfig(granularity=PerGroup(32)), Int8DynamicActivationInt8WeightConfig()]
)
def test_one_that_was_quantized_in_another_way_is_refused(checkpoint, other):
    loader = TransformersLoader(TransformersLoader.Options(name=str(checkpoint)))
    model = loader.load_model(LoadRequest(quantization=TorchAoConfig(other)))
    with pytest.raises(
        RunError, match=r"model\.layers\.0\.self_attn\.q_proj in 8 bits of torchao that have no"
    ):
        quantizer().prepare(model)


def test_how_torch_compile_tunes_is_left_alone(checkpoint):
    from torch._inductor import config

    with config.patch(coordinate_descent_tuning=False):
        load(checkpoint, quantizer())
        assert not config.coordinate_descent_tuning


def test_a_torchao_that_is_too_old_is_found_before_loading(monkeypatch, tmp_path):
    folder = tmp_path / "torchao-0.17.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: torchao\nVersion: 0.17.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RecipeError, match=r"torchao 0\.17\.0 is installed, not >=0\.18; pip install"):
        quantizer().check()


def test_it_is_the_one_that_is_offered_and_its_weights_cannot_be_trained(tmp_path):
    assert [kind.name for kind in dpotrain_quantizers()] == ["torchao-int8"]
    recipe = project(tmp_path)
    with pytest.raises(RecipeError, match="torchao-int8 weights cannot be trained themselves"):
        load_recipe(recipe, [INT8])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@AUTOCAST
def test_on_cuda_gradients_arrive_and_no_number_depends_on_who_else_is_there(checkpoint, autocast):
    model = load(checkpoint, quantizer(), device="cuda:0")
    gradient, logits = input_gradient(model, autocast)
    assert (gradient.abs().sum(-1) > 0).all()
    atol = 3e-2 if autocast else 1e-3
    torch.testing.assert_close(forward(model, autocast), logits, atol=atol, rtol=1e-2)
    ids = IDS.cuda().repeat(4, 1)
    ids[1:] = ids[1:].flip(-1)
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        among_others = model(ids).logits[:1]
    torch.testing.assert_close(among_others, logits, atol=atol, rtol=1e-2)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_the_memory_of_a_step_holds_no_dequantized_copy_of_the_weights(tmp_path):
    tiny_checkpoint(tmp_path, "llama", hidden_size=1024, intermediate_size=4096, num_hidden_layers=8)
    model = load(tmp_path, quantizer(), device="cuda:0", dtype="bfloat16")
    numbers = sum(layer.quantized.numel() for layer in model.modules() if isinstance(layer, Int8Linear))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    input_gradient(model)
    # A float copy of one layer at a time, and little else for twenty tokens; of all, it would be twice their numbers.
    assert torch.cuda.max_memory_allocated() - before < numbers
