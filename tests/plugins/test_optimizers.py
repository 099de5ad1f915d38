"""The built-in optimizers."""

import pytest
import torch

from dpotrain.recipe.load import load_recipe
from dpotrain_plugins.optimizers import AdamW, AdamW8bit


def weights() -> dict[str, torch.nn.Parameter]:
    torch.manual_seed(0)
    return {"matrix": torch.nn.Parameter(torch.randn(4, 3)), "vector": torch.nn.Parameter(torch.randn(5))}


def step(optimizer: torch.optim.Optimizer, trained: dict[str, torch.nn.Parameter], gradient: float) -> None:
    for weight in trained.values():
        weight.grad = torch.full_like(weight, gradient)
    optimizer.step()


def test_moments_are_there_before_the_first_step_and_are_what_torch_would_make():
    ours, plain = weights(), weights()
    optimizer = AdamW(AdamW.Options(lr=0.1)).build(ours)
    other = torch.optim.AdamW(plain.values(), lr=0.1, weight_decay=0.0, fused=True)
    assert len(optimizer.state) == len(ours)
    assert not any(state["exp_avg"].any() or state["exp_avg_sq"].any() for state in optimizer.state.values())
    for _ in range(3):
        step(optimizer, ours, 1.0)
        step(other, plain, 1.0)
    for one, two in zip(ours.values(), plain.values(), strict=True):
        assert one.equal(two)
        assert optimizer.state[one].keys() == other.state[two].keys()
        for name, value in other.state[two].items():
            assert optimizer.state[one][name].equal(value)
            assert optimizer.state[one][name].dtype == value.dtype


@pytest.mark.parametrize("kind", [AdamW, AdamW8bit])
def test_vectors_are_not_decayed(kind):
    trained, before = weights(), weights()
    optimizer = kind(kind.Options(lr=0.1, weight_decay=0.5)).build(trained)
    step(optimizer, trained, 0.0)
    torch.testing.assert_close(trained["matrix"], before["matrix"] * (1 - 0.1 * 0.5))
    assert trained["vector"].equal(before["vector"])


def test_every_option_reaches_torch():
    optimizer = AdamW(AdamW.Options(lr=0.1, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.2)).build(weights())
    matrices, vectors = optimizer.param_groups
    for group in (matrices, vectors):
        assert (group["lr"], group["betas"], group["eps"]) == (0.1, (0.8, 0.9), 1e-3)
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.2, 0.0)


def test_a_recipe_that_does_not_say_means_adamw_and_cosine(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(
        'run.output_dir = "run"\nmodel.use = "demo"\ndata.use = "demo"\nloss.use = "dpo"\noptimizer.lr = 1e-3\n'
    )
    recipe = load_recipe(path)
    assert (recipe.document["optimizer"]["use"], recipe.document["schedule"]["use"]) == ("adamw", "cosine")
