"""LoRA over 4-bit layers, fused: bitsandbytes' own results, gradients by float64, less kept and fewer passes."""

from functools import partial

import bitsandbytes.functional
import pytest
import torch
from peft.tuners.lora.bnb import Linear4bit as Unfused
from torch.utils._python_dispatch import TorchDispatchMode

from dpotrain.plugin.api import LoadRequest
from dpotrain_plugins.lora import Lora
from dpotrain_plugins.lora.fused_4bit import FusedLinear4bit
from dpotrain_plugins.quantizers.bitsandbytes import Bnb4bit
from dpotrain_plugins.transformers_loader import TransformersLoader
from tests.plugins.fused_layers import (
    assert_close,
    assert_near,
    in_float64,
    layers_of,
    of_layer,
    replaced,
    results,
)
from tests.plugins.quantized import IDS, forward
from tests.support import tiny_checkpoint

PRECISIONS = pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
unfused = partial(replaced, fused=FusedLinear4bit, by=Unfused)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Queries, keys and values have a bias."""
    return tiny_checkpoint(tmp_path_factory.mktemp("base"), "qwen2", hidden_size=64, intermediate_size=128)


def policy_of(checkpoint, quantizer=None, dtype="float32", **options):
    """A quantized policy whose adapter is no longer fresh."""
    quantizer = Bnb4bit(Bnb4bit.Options(**(quantizer or {})))
    loader = TransformersLoader(TransformersLoader.Options(name=str(checkpoint), dtype=dtype))
    model = loader.load_model(LoadRequest(quantization=quantizer.loading_config()))
    quantizer.prepare(model)
    adapter = Lora(Lora.Options(**({"rank": 4} | options)))
    policy = adapter.attach(model)
    torch.manual_seed(3)
    for name, weight in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    return adapter, policy


CASES = {
    "nf4": ({}, {}),
    "fp4, single scales": ({"quant_type": "fp4", "double_quant": False}, {}),
    "rslora, dropout": ({}, {"rslora": True, "dropout": 0.3}),
    "products in bf16": ({"compute_dtype": "bfloat16"}, {}),
    "products in fp32": ({"compute_dtype": "float32"}, {}),
}


@pytest.mark.parametrize(
    "case", [next(iter(CASES)), *(pytest.param(case, marks=pytest.mark.soak) for case in list(CASES)[1:])]
)
def test_results_are_those_of_the_unfused_layers(checkpoint, case):
    quantizer, options = CASES[case]
    _, policy = policy_of(checkpoint, quantizer, **options)
    assert len(layers_of(policy, FusedLinear4bit)) == 2 * 7
    got = results(policy, False)
    with unfused(policy):
        expected = results(policy, False)
    # Rounding to 16 bits grows on the way through the model.
    assert_close(got, expected, 0.1 if quantizer.get("compute_dtype") == "bfloat16" else 1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(
    ("dtype", "bf16", "apart"),
    [("float32", False, 1e-6), ("float32", True, 6e-3), ("bfloat16", True, 6e-3)],
    ids=["fp32", "bf16 on float32 rows", "bf16"],
)
def test_a_layer_is_its_formula_in_float64(checkpoint, dtype, bf16, apart, dropout):
    """At most as far from it as the unfused layer."""
    _, policy = policy_of(checkpoint, dtype=dtype, alpha=6.0, dropout=dropout)
    layer = policy.base_model.model.model.layers[0].self_attn.q_proj
    rows, slope = torch.randn(2, 2, 50, 64).to(layer.base_layer.bias.dtype)
    base = layer.base_layer.weight
    weight = bitsandbytes.functional.dequantize_4bit(base.data, base.quant_state)
    exact = in_float64(layer, weight, rows, slope)
    got = of_layer(layer, rows, slope, bf16)
    with unfused(policy):
        expected = of_layer(layer, rows, slope, bf16)
    assert_near(got, expected, exact, times=1.1, apart=apart)


@PRECISIONS
def test_a_fresh_adapter_and_the_reference_have_the_bits_of_the_plain_layers(checkpoint, bf16):
    adapter, policy = policy_of(checkpoint)
    plain = policy_of(checkpoint)[1].unload()
    assert not layers_of(plain, FusedLinear4bit)
    expected = forward(plain, bf16)
    with adapter.reference(policy):
        assert forward(policy, bf16).equal(expected)
    assert not forward(policy, bf16).equal(expected)
    for name, weight in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.zeros_(weight)
    assert forward(policy, bf16).equal(expected)
    assert results(policy, bf16)[0].equal(expected)


@PRECISIONS
def test_a_checkpointed_layer_gives_the_same(checkpoint, bf16):
    _, policy = policy_of(checkpoint, dropout=0.3)
    expected = results(policy, bf16)
    policy.gradient_checkpointing_enable({"use_reentrant": False})
    assert_close(results(policy, bf16), expected, 0)


def test_what_is_not_plain_is_left_to_peft(checkpoint):
    _, policy = policy_of(checkpoint, dora=True)
    got = results(policy, False)
    with unfused(policy):
        assert_close(got, results(policy, False), 0)
    quantizer = Bnb4bit(Bnb4bit.Options())
    loader = TransformersLoader(TransformersLoader.Options(name=str(checkpoint)))
    model = loader.load_model(LoadRequest(quantization=quantizer.loading_config()))
    quantizer.prepare(model)
    hooked = model.model.layers[0].mlp.up_proj
    hooked.register_forward_hook(lambda *_: None)
    policy = Lora(Lora.Options(rank=4)).attach(model)
    assert len(layers_of(policy, FusedLinear4bit)) == 2 * 7 - 1
    assert [layer.base_layer for layer in layers_of(policy, Unfused)] == [hooked]


def kept(policy, bf16):
    """The bytes of activations that a forward pass keeps, each storage once."""
    known = {weight.untyped_storage().data_ptr() for weight in policy.parameters()}
    found = {}

    def save(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            found[storage.data_ptr()] = storage
        return tensor.detach()

    with (
        torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        logits = policy(IDS).logits
    assert logits.requires_grad
    return sum(storage.nbytes() for storage in found.values())


@pytest.mark.parametrize(("dtype", "bf16", "share"), [("bfloat16", True, 0.9), ("float32", True, 1.0)])
def test_no_more_is_kept(checkpoint, dtype, bf16, share):
    _, policy = policy_of(checkpoint, dtype=dtype)
    fused = kept(policy, bf16)
    with unfused(policy):
        assert fused <= share * kept(policy, bf16)


class Written(TorchDispatchMode):
    """Counts the bytes that operations write, in new tensors or in place, and the dequantized weights."""

    def __init__(self):
        super().__init__()
        self.bytes = self.dequantized = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.dequantized += "dequantize_4bit" in str(func) or "gemm_4bit" in str(func)
        if isinstance(result, torch.Tensor) and not func.is_view:
            self.bytes += result.nbytes
        return result


def test_a_layer_writes_less_and_dequantizes_once_a_pass(checkpoint):
    _, policy = policy_of(checkpoint, dtype="bfloat16")
    layer = policy.base_model.model.model.layers[0].mlp.up_proj
    rows = torch.randn(1, 300, 64, dtype=torch.bfloat16, requires_grad=True)

    def written():
        weights = [layer.lora_A["default"].weight, layer.lora_B["default"].weight]
        with torch.autocast("cpu", torch.bfloat16), Written() as forward:
            output = layer(rows)
        with Written() as backward:
            torch.autograd.grad(output, [rows, *weights], torch.ones_like(output))
        return forward, backward

    fused = written()
    with unfused(policy):
        plain = written()
    assert [each.dequantized for each in fused] == [1, 1]
    for less, more in zip(fused, plain, strict=True):
        assert less.bytes < 0.6 * more.bytes


def test_no_weight_is_dequantized_for_rows_without_gradients(checkpoint):
    _, policy = policy_of(checkpoint)
    layer = policy.base_model.model.model.layers[0].mlp.up_proj
    output = layer(torch.randn(1, 3, 64))
    with Written() as backward:
        output.sum().backward()
    assert backward.dequantized == 0
    assert layer.lora_A["default"].weight.grad.abs().sum() > 0
