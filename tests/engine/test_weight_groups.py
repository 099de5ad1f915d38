"""``[[optimizer.groups]]``: learning rates and weight decay by the names of weights."""

import copy

import pytest
import torch
from torch import nn

from dpotrain.core.errors import RecipeError
from dpotrain.engine.training.optimizer import build_optimizer
from dpotrain.plugin.api import Optimizer
from dpotrain_plugins.optimizers import Adafactor, AdamW, AdamW8bit, Lion, Muon


def model() -> nn.ModuleDict:
    torch.manual_seed(0)
    layer = nn.ModuleDict({"query": nn.Linear(3, 3), "norm": nn.LayerNorm(3)})
    return nn.ModuleDict(
        {"embed": nn.Embedding(5, 3), "layers": nn.ModuleList([layer, copy.deepcopy(layer)])}
    )


def rates(optimizer: torch.optim.Optimizer, policy: nn.Module, key: str = "lr") -> dict[str, float]:
    found = {id(weight): group[key] for group in optimizer.param_groups for weight in group["params"]}
    return {name: found[id(weight)] for name, weight in policy.named_parameters()}


def built(policy: nn.Module, *groups: dict, kind=AdamW, note=lambda text: None, **options):
    return build_optimizer(kind(kind.Options(lr=0.1, groups=groups, **options)), policy, note)


class TwoRates(Optimizer):
    """Of a plugin: some weights learn 16 times as fast, and none has weight decay."""

    name = "two-rates"

    def build(self, weights):
        fast = [weight for name, weight in weights.items() if "query" in name]
        slow = [weight for name, weight in weights.items() if "query" not in name]
        groups = [{"params": slow}, {"params": fast, "lr": 16 * self.options.lr}]
        return torch.optim.Rprop(groups, lr=self.options.lr)


def test_the_first_group_that_matches_a_weight_counts_and_the_others_keep_their_rate():
    policy, notes = model(), []
    groups = {"match": "layers.0.*weight", "lr": 0.01}, {"match": "*query*", "lr": 0.02, "weight_decay": 0.5}
    optimizer = built(policy, *groups, note=notes.append, weight_decay=0.3)
    assert rates(optimizer, policy) == {
        "embed.weight": 0.1,
        "layers.0.query.weight": 0.01,
        "layers.0.query.bias": 0.02,
        "layers.0.norm.weight": 0.01,
        "layers.0.norm.bias": 0.1,
        "layers.1.query.weight": 0.02,
        "layers.1.query.bias": 0.02,
        "layers.1.norm.weight": 0.1,
        "layers.1.norm.bias": 0.1,
    }
    decay = rates(optimizer, policy, "weight_decay")
    assert {decay[name] for name in ("embed.weight", "layers.0.query.weight")} == {0.3}
    assert {decay[name] for name in ("layers.0.query.bias", "layers.1.query.weight")} == {0.5}
    assert {decay[name] for name in decay if "norm" in name} == {0.0}
    assert notes == [
        'optimizer.groups.0: 2 of 9 weights match "layers.0.*weight": lr = 0.01',
        'optimizer.groups.1: 3 of 9 weights match "*query*": lr = 0.02, weight_decay = 0.5',
    ]


def test_without_groups_the_optimizer_is_what_the_component_built():
    policy = model()
    weights = dict(policy.named_parameters())
    plain = AdamW(AdamW.Options(lr=0.1)).build(weights).param_groups
    ours = built(policy).param_groups
    assert [group | {"params": [*map(id, group["params"])]} for group in ours] == [
        group | {"params": [*map(id, group["params"])]} for group in plain
    ]


def test_a_rate_of_a_plugin_s_own_keeps_its_ratio():
    policy = model()
    chosen = TwoRates(TwoRates.Options(lr=0.1, groups=[{"match": "layers.1.*", "lr": 0.02}]))
    found = rates(build_optimizer(chosen, policy), policy)
    assert found["layers.0.query.weight"] == pytest.approx(1.6)
    assert found["layers.1.query.weight"] == pytest.approx(0.32)
    assert (found["layers.0.norm.weight"], found["layers.1.norm.weight"]) == (0.1, 0.02)


def test_names_that_torch_keeps_beside_the_weights_stay_beside_them():
    class Named(Optimizer):
        name = "named"

        def build(self, weights):
            return torch.optim.SGD(weights.items(), lr=self.options.lr)

    policy = model()
    chosen = Named(Named.Options(lr=0.1, groups=[{"match": "*query*", "lr": 0.02}]))
    weights = dict(policy.named_parameters())
    for group in build_optimizer(chosen, policy).param_groups:
        named = [weights[name] for name in group["param_names"]]
        assert [*map(id, named)] == [*map(id, group["params"])]


@pytest.mark.parametrize("kind", [AdamW, AdamW8bit, Adafactor, Lion, Muon])
def test_a_group_moves_at_its_own_rate_and_resumes_to_the_bit(kind):
    groups = ({"match": "layers.1.*", "lr": 0.001}, {"match": "*embed*", "lr": 0.01})

    def steps(policy: nn.Module, optimizer: torch.optim.Optimizer, numbers: range) -> None:
        for number in numbers:
            draw = torch.Generator().manual_seed(number)
            for weight in policy.parameters():
                weight.grad = torch.randn(weight.shape, generator=draw)
            optimizer.step()

    policy, before = model(), model()
    optimizer = built(policy, *groups, kind=kind)
    steps(policy, optimizer, range(1))
    moved = {
        name: (weight - dict(before.named_parameters())[name]).square().mean().sqrt().item()
        for name, weight in policy.named_parameters()
    }
    factor = 0.2 if kind is Muon else 1.0  # of what is orthogonal
    assert moved["layers.0.query.weight"] == pytest.approx(0.1 * factor, rel=0.25)
    assert moved["layers.1.query.weight"] == pytest.approx(0.001 * factor, rel=0.25)
    assert moved["layers.1.norm.weight"] == pytest.approx(0.001, rel=0.25)
    assert moved["embed.weight"] == pytest.approx(0.01, rel=0.25)

    other = copy.deepcopy(policy)
    resumed = built(other, *groups, kind=kind)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(policy, optimizer, range(1, 3))
    steps(other, resumed, range(1, 3))
    assert all(one.equal(two) for one, two in zip(policy.parameters(), other.parameters(), strict=True))


def test_a_pattern_without_a_weight_lists_the_names_once_for_all_layers():
    with pytest.raises(RecipeError) as caught:
        built(model(), {"match": "*query*", "lr": 0.1}, {"match": "embed_tokens", "lr": 0.1})
    assert str(caught.value) == (
        'optimizer.groups.1: match = "embed_tokens" matches none of the 9 trained weights, which are called\n'
        "  embed.weight\n"
        "  layers.*.query.weight\n"
        "  layers.*.query.bias\n"
        "  layers.*.norm.weight\n"
        "  layers.*.norm.bias"
    )


def test_names_that_are_too_many_are_counted():
    policy = nn.ModuleDict({f"part{number}": nn.Linear(1, 1) for number in range(15)})
    with pytest.raises(RecipeError, match=r"which are called\n  part0\.weight\n(.*\n){19}  and 10 more$"):
        built(policy, {"match": "x", "lr": 0.1})


def test_a_group_whose_weights_are_all_an_earlier_one_s_is_refused():
    with pytest.raises(RecipeError) as caught:
        built(model(), {"match": "*", "lr": 0.1}, {"match": "*query*", "lr": 0.2})
    assert str(caught.value) == (
        'optimizer.groups.1: match = "*query*" matches only weights that earlier groups match, and the first that '
        "matches counts.\nMove it before them, or remove it."
    )


def test_weight_decay_is_refused_where_the_optimizer_has_none():
    chosen = TwoRates(TwoRates.Options(lr=0.1, groups=[{"match": "*query*", "weight_decay": 0.1}]))
    with pytest.raises(RecipeError) as caught:
        build_optimizer(chosen, model())
    assert str(caught.value) == (
        'optimizer.groups.0: the optimizer "two-rates" has no weight decay; remove weight_decay'
    )
