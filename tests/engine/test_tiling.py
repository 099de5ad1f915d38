"""Modules in tiles of tokens: the numbers of whole rows, less memory, and only where each token is by itself."""

import pytest
import torch
from torch import nn

from dpotrain.data.batches.packing import pack
from dpotrain.engine.layers.checkpointing import checkpoint_layers, decoder_layers
from dpotrain.engine.layers.memory_efficient import use_memory_efficient_layers
from dpotrain.engine.layers.tiling import per_token_modules, proven_modules, tile
from dpotrain.engine.memory.activations import measure, record
from dpotrain.engine.scoring.logprobs import LogitTransform
from dpotrain.engine.scoring.scorer import PackedScorer, PaddedScorer
from dpotrain.engine.training.all_weights import AllWeights
from dpotrain_plugins.lora import Lora
from tests.engine.pairs import random_pairs
from tests.support import tiny_model

BATCH = pack(random_pairs([(20, 30, 14), (5, 9, 11)]), range(2))
SCORERS = {"packed": PackedScorer, "padded": PaddedScorer}
ADAPTERS = {
    "full": lambda: AllWeights(AllWeights.Options()),
    "lora": lambda: Lora(Lora.Options(rank=4)),
}


def policy_of(kind: str = "llama", adapter: str = "full", **config) -> nn.Module:
    torch.manual_seed(1)
    policy = ADAPTERS[adapter]().attach(tiny_model(kind, **config).train())
    for name, weight in policy.named_parameters():
        if "lora_B" in name:
            weight.data.normal_()
    return policy


def tiled(policy: nn.Module, tokens: int = 7) -> nn.Module:
    modules = [module for layer in proven_modules(policy, False) for module in layer]
    assert modules
    tile(modules, tokens)
    return policy


def gradients(policy: nn.Module, scorer: str = "packed", bf16: bool = False):
    torch.manual_seed(2)
    sums = SCORERS[scorer](policy, LogitTransform(), bf16)(BATCH)
    (sums * torch.tensor([[1.0, -2.0], [0.5, 3.0]])).sum().backward()
    found = {name: weight.grad for name, weight in policy.named_parameters() if weight.grad is not None}
    return sums.detach(), found


@pytest.mark.parametrize("efficient", [False, True])
@pytest.mark.parametrize("layers", [0, 1, 2])
@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("scorer", SCORERS)
def test_scores_and_gradients_are_those_of_whole_rows(scorer, adapter, layers, efficient):
    whole, parts = policy_of(adapter=adapter), policy_of(adapter=adapter)
    if efficient:
        use_memory_efficient_layers(whole)
        use_memory_efficient_layers(parts)
    checkpoint_layers(parts, layers)
    expected, expected_gradients = gradients(whole, scorer)
    got, found = gradients(tiled(parts), scorer)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-6)
    assert found.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-7, name
