"""LoRA over plain linear layers, fused: peft's own results, and gradients by float64."""

from functools import partial

import pytest
import torch
from peft.tuners.lora.layer import Linear as Unfused
from torch import nn

from dpotrain_plugins.lora import Lora
from dpotrain_plugins.lora.fused import FusedLinear
from tests.plugins.fused_layers import (
    assert_close,
    assert_near,
    in_float64,
    layers_of,
    of_layer,
    replaced,
    results,
)
from tests.support import tiny_model

unfused = partial(replaced, fused=FusedLinear, by=Unfused)


def policy_of(dtype=torch.float32, **options):
    """A policy whose adapter is no longer fresh; queries, keys and values have a bias."""
    policy = Lora(Lora.Options(**({"rank": 4} | options))).attach(tiny_model("qwen2").to(dtype).train())
    torch.manual_seed(3)
    for name, weight in policy.named_parameters():
        if "lora_B" in name or "bias" in name:
            nn.init.normal_(weight, std=0.05)
    return policy


@pytest.mark.parametrize("options", [{}, {"rslora": True, "dropout": 0.3}], ids=["plain", "rslora, dropout"])
def test_results_are_those_of_the_unfused_layers(options):
    policy = policy_of(**options)
    assert len(layers_of(policy, FusedLinear)) == 2 * 7
    got = results(policy, False)
    with unfused(policy):
        expected = results(policy, False)
    assert_close(got, expected, 1e-5)


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
    exact = in_float64(layer, layer.base_layer.weight, rows, slope)
    got = of_layer(layer, rows, slope, bf16)
    with unfused(policy):
        expected = of_layer(layer, rows, slope, bf16)
    assert_near(got, expected, exact, times=1.3, apart=apart)
