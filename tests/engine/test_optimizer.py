"""The optimizer that a run steps with."""

from __future__ import annotations

import torch

from dpotrain.engine.optimizer import build_optimizer
from dpotrain.recipe.sections import OptimizerSection


def weights() -> list[torch.nn.Parameter]:
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(4, 3)), torch.nn.Parameter(torch.randn(5))]


def step(optimizer: torch.optim.Optimizer, trained: list[torch.nn.Parameter]) -> None:
    for weight in trained:
        weight.grad = torch.ones_like(weight)
    optimizer.step()


def test_moments_are_there_before_the_first_step_and_are_what_torch_would_make():
    ours, plain = weights(), weights()
    optimizer = build_optimizer(ours, OptimizerSection(lr=0.1, weight_decay=0.0))
    other = torch.optim.AdamW(plain, lr=0.1, weight_decay=0.0, fused=True)
    assert len(optimizer.state) == len(ours)
    assert not any(state["exp_avg"].any() or state["exp_avg_sq"].any() for state in optimizer.state.values())
    for _ in range(3):
        step(optimizer, ours)
        step(other, plain)
    for one, two in zip(ours, plain, strict=True):
        assert one.equal(two)
        assert optimizer.state[one].keys() == other.state[two].keys()
        for name, value in other.state[two].items():
            assert optimizer.state[one][name].equal(value)
            assert optimizer.state[one][name].dtype == value.dtype


def test_vectors_are_not_decayed():
    trained = weights()
    optimizer = build_optimizer(trained, OptimizerSection(lr=0.1, weight_decay=0.5))
    for weight in trained:
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    matrix, vector = weights()
    torch.testing.assert_close(trained[0], matrix * (1 - 0.1 * 0.5))
    assert trained[1].equal(vector)
