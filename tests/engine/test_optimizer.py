"""The recipe's optimizer is over exactly what is trained."""

import pytest
import torch
from torch import nn

from dpotrain.core.errors import PluginError
from dpotrain.engine.training.optimizer import build_optimizer
from dpotrain.plugin.api import Optimizer


def model() -> nn.Module:
    layers = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    layers[1].weight.requires_grad_(False)
    return layers


def built(build, policy: nn.Module) -> torch.optim.Optimizer:
    class Chosen(Optimizer):
        name = "chosen"

        def build(self, weights):
            return build(weights)

    return build_optimizer(Chosen(Chosen.Options(lr=0.1)), policy)


def test_it_gets_what_is_trained_by_name():
    seen = {}

    def build(weights):
        seen.update(weights)
        return torch.optim.SGD(weights.values(), lr=0.1)

    policy = model()
    built(build, policy)
    assert list(seen) == ["0.weight", "0.bias", "1.bias"]
    assert seen["1.bias"] is policy[1].bias


def test_a_weight_that_is_left_out_is_named():
    with pytest.raises(PluginError) as caught:
        built(lambda weights: torch.optim.SGD([weights["0.weight"]], lr=0.1), model())
    assert str(caught.value) == (
        "build returned an optimizer that leaves out 2 of 3 trained weights (0.bias, 1.bias); it must hold each of "
        "them, and nothing else"
    )


def test_a_weight_that_is_not_trained_is_refused():
    policy = model()
    with pytest.raises(PluginError, match="holds 4 weights, and 3 are trained"):
        built(lambda weights: torch.optim.SGD(policy.parameters(), lr=0.1), policy)
