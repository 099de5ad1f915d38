"""LoRA over plain linear layers, fused: peft's own results, and gradients by float64."""

from contextlib import contextmanager

import pytest
import torch
from peft.tuners.lora.layer import Linear as Unfused
from torch import nn

from dpotrain_plugins.lora import Lora
from dpotrain_plugins.lora.fused import FusedLinear
from tests.support import tiny_model

IDS = torch.arange(4, 24)[None]


def policy_of(dtype=torch.float32, **options):
    """A policy whose adapter is no longer fresh; queries, keys and values have a bias."""
    policy = Lora(Lora.Options(**({"rank": 4} | options))).attach(tiny_model("qwen2").to(dtype).train())
    torch.manual_seed(3)
    for name, weight in policy.named_parameters():
        if "lora_B" in name or "bias" in name:
            nn.init.normal_(weight, std=0.05)
    return policy


def layers(policy):
    return [module for module in policy.modules() if type(module) is FusedLinear]


@contextmanager
def unfused(policy):
    """peft's own forwards."""
    fused = layers(policy)
    assert fused
    for layer in fused:
        layer.__class__ = Unfused
    try:
        yield
    finally:
        for layer in fused:
            layer.__class__ = FusedLinear


def results(policy):
    """Logits, and the gradients of the embedded tokens and of what is trained."""
    embedded = policy.get_input_embeddings()(IDS).detach().requires_grad_()
    torch.manual_seed(5)
    logits = policy(inputs_embeds=embedded).logits
    weights = [weight for weight in policy.parameters() if weight.requires_grad]
    return [logits.detach(), *torch.autograd.grad(logits.float().square().mean(), [embedded, *weights])]


@pytest.mark.parametrize("options", [{}, {"rslora": True, "dropout": 0.3}], ids=["plain", "rslora, dropout"])
def test_results_are_those_of_the_unfused_layers(options):
    policy = policy_of(**options)
    assert len(layers(policy)) == 2 * 7
    got = results(policy)
    with unfused(policy):
        expected = results(policy)
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == other.dtype
        assert (one - other).norm() <= 1e-5 * other.norm()


def of_layer(layer, rows, slope, bf16):
    """What a layer makes of rows, and the gradients of the rows and of its adapter."""
    rows = rows.detach().requires_grad_()
    torch.manual_seed(7)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        got = layer(rows)
    weights = [layer.lora_A["default"].weight, layer.lora_B["default"].weight]
    return [got.detach(), *torch.autograd.grad(got, [rows, *weights], slope.to(got.dtype))]


def in_float64(layer, rows, slope):
    """The same by the formula."""
    torch.manual_seed(7)
    factor = layer.lora_dropout["default"](torch.ones_like(rows)).double()
    base = layer.base_layer
    given = [rows, layer.lora_A["default"].weight, layer.lora_B["default"].weight]
    given = [each.detach().double().requires_grad_() for each in given]
    wide, down, up = given
    scaling = layer.scaling["default"]
    got = nn.functional.linear(wide, base.weight.double(), base.bias.double())
    got = got + scaling * (wide * factor) @ down.t() @ up.t()
    return [got.detach(), *torch.autograd.grad(got, given, slope.double())]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(
    ("dtype", "bf16", "apart"),
    [
        (torch.float32, False, 1e-6),
        (torch.float32, True, 6e-3),
        (torch.bfloat16, True, 6e-3),
        (torch.bfloat16, False, 6e-3),
    ],
    ids=["fp32", "bf16 on float32 rows", "bf16", "bf16 without autocast"],
)
def test_a_layer_is_its_formula_in_float64(dtype, bf16, apart, dropout):
    """And at most a little farther from it than the unfused layer."""
    policy = policy_of(dtype, alpha=6.0, dropout=dropout)
    layer = policy.base_model.model.model.layers[0].self_attn.q_proj
    assert type(layer) is FusedLinear
    rows = torch.randn(2, 50, layer.in_features).to(dtype)
    slope = torch.randn(2, 50, layer.out_features).to(dtype)
    exact = in_float64(layer, rows, slope)
    got = of_layer(layer, rows, slope, bf16)
    with unfused(policy):
        expected = of_layer(layer, rows, slope, bf16)
    for one, other, truth in zip(got, expected, exact, strict=True):
        assert one.dtype == other.dtype
        off, plain = ((each.double() - truth).norm() / truth.norm() for each in (one, other))
        assert off <= max(1.3 * plain, 1e-6)
        assert off <= apart
