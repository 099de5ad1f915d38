"""Modules in tiles of tokens: the numbers of whole rows, less memory, and only where each token is by itself."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dpotrain.data.batches.packing import pack
from dpotrain.engine.layers.checkpointing import checkpoint_layers
from dpotrain.engine.layers.memory_efficient import use_memory_efficient_layers
from dpotrain.engine.layers.tiling import per_token_modules, proven_modules, tile
from dpotrain.engine.memory.recording import record
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
@pytest.mark.parametrize("layers", [0, pytest.param(1, marks=pytest.mark.soak), 2])
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


@pytest.mark.parametrize("kind", ["gemma2", pytest.param("gpt2", marks=pytest.mark.soak), "phi3"])
def test_norms_and_blocks_of_other_models(kind):
    no_dropout = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0) if kind == "gpt2" else {}
    expected, expected_gradients = gradients(policy_of(kind, **no_dropout))
    got, found = gradients(tiled(policy_of(kind, **no_dropout)))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-6)
    for name, gradient in expected_gradients.items():
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-7, name


def test_under_bfloat16_scores_and_gradients_differ_by_rounding():
    expected, expected_gradients = gradients(policy_of(), bf16=True)
    got, found = gradients(tiled(policy_of()), bf16=True)
    torch.testing.assert_close(got, expected, atol=0.2, rtol=0.01)
    assert found.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        assert (found[name] - gradient).norm() <= 0.05 * gradient.norm(), name


def test_what_autocast_casts_without_gradients_is_not_used_where_they_are_wanted():
    mlp = tiled(policy_of(), 7).model.layers[0].mlp
    with torch.autocast("cpu", torch.bfloat16):
        mlp(torch.randn(1, 20, 32))
        mlp(torch.randn(1, 2, 32)).sum().backward()
    assert mlp.up_proj.weight.grad.any()


def test_gradients_of_16_bit_weights_are_added_up_in_float32():
    scale = nn.RMSNorm(4).bfloat16()
    tile([scale], 1)
    scale(torch.ones(1, 600, 4, dtype=torch.bfloat16)).sum().backward()
    assert scale.weight.grad.dtype == torch.bfloat16
    assert scale.weight.grad.tolist() == [600.0] * 4  # in bfloat16, 256 and 1 is 256


@pytest.mark.parametrize("layers", [0, 2])
def test_dropout_is_drawn_again_as_it_was(layers):
    """TRAPS: dropout drawn again in the recomputation. The gradient is that of the scores that came out."""

    def policy() -> nn.Module:
        torch.manual_seed(1)
        found = Lora(Lora.Options(rank=4, dropout=0.3)).attach(tiny_model("llama").train())
        checkpoint_layers(found, layers)
        return tiled(found)

    def scores(model: nn.Module) -> torch.Tensor:
        torch.manual_seed(2)
        return PackedScorer(model, LogitTransform(), False)(BATCH).double().sum()

    model = policy()
    weight = next(each for name, each in model.named_parameters() if "down_proj.lora_B" in name)
    scores(model).backward()
    direction, step = torch.sign(weight.grad), 1e-3
    ahead, behind = (
        scores_of_moved(model, weight, direction * sign * step, scores).item() for sign in (1.0, -1.0)
    )
    slope = (weight.grad * direction).sum().item()
    assert (ahead - behind) / (2 * step) == pytest.approx(slope, rel=0.01)


def scores_of_moved(model, weight, by, scores) -> torch.Tensor:
    before = weight.data.clone()
    weight.data += by
    try:
        return scores(model)  # with gradients: without them other tiles draw as well, but nothing is kept
    finally:
        weight.data = before


class Largest(TorchDispatchMode):
    """The most numbers in a tensor that any operation returns."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for each in result if isinstance(result, tuple | list) else [result]:
            if isinstance(each, torch.Tensor):
                self.numbers = max(self.numbers, each.numel())
        return result


@pytest.mark.parametrize("layers", [0, 2])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_no_tensor_is_as_wide_as_the_block_and_as_long_as_the_row(adapter, layers):
    def largest(policy: nn.Module) -> int:
        checkpoint_layers(policy, layers)
        scorer = PackedScorer(policy, LogitTransform(), False)
        with Largest() as seen:
            scorer(BATCH).sum().backward()
        return seen.numbers

    wide, rows = {"intermediate_size": 4096, "adapter": adapter}, len(BATCH.input_ids)
    assert largest(policy_of(**wide)) >= 4096 * rows
    weights = 4096 * 32  # a gradient of a whole weight there must be, in full training
    assert largest(tiled(policy_of(**wide), 8)) == max(weights, 8 * 4096)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_what_tiles_do_not_keep_is_known_from_whole_rows(adapter):
    whole = PackedScorer(policy_of(adapter=adapter), LogitTransform(), False)
    use_memory_efficient_layers(whole.policy)
    modules = proven_modules(whole.policy, False)
    found = record(whole, BATCH, whole, modules)
    parts = PackedScorer(tiled(whole.policy, 8), LogitTransform(), False)
    kept = record(parts, BATCH, parts).layers
    assert list(kept) == [layer - tiles for layer, tiles in zip(found.layers, found.tiled, strict=True)]
    assert min(found.tiled) > 0.3 * found.layers[0]


def test_a_row_of_one_tile_is_computed_as_it_was():
    expected, expected_gradients = gradients(policy_of())
    got, found = gradients(tiled(policy_of(), len(BATCH.input_ids)))
    assert got.equal(expected)
    assert all(found[name].equal(gradient) for name, gradient in expected_gradients.items())


def test_state_and_classes_stay():
    policy = policy_of()
    kinds, names = [type(module) for module in policy.modules()], list(policy.state_dict())
    tiled(policy)
    assert all(isinstance(module, kind) for module, kind in zip(policy.modules(), kinds, strict=True))
    assert [type(module).__name__ for module in policy.modules()] == [kind.__name__ for kind in kinds]
    assert list(policy.state_dict()) == names


def names_of(policy: nn.Module, modules: list[list[nn.Module]]) -> set[str]:
    chosen = {id(module) for layer in modules for module in layer}
    return {name.rpartition(".")[2] for name, module in policy.named_modules() if id(module) in chosen}


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe"])
def test_a_mixture_of_experts_is_not_tiled(kind):
    """Its routers' rows are added up over whole rows."""
    policy = policy_of(kind)
    expected = {"input_layernorm", "post_attention_layernorm"}
    assert names_of(policy, per_token_modules(policy)) == expected
    assert names_of(policy, proven_modules(policy, False)) == expected


class Mixing(nn.Module):
    """Has a weight, takes a row, and computes tokens from each other."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(32))

    def forward(self, hidden):
        return self.weight * (hidden - hidden.mean(1, keepdim=True))


def test_what_mixes_tokens_is_found_out():
    policy = policy_of()
    policy.model.layers[1].mlp = Mixing()
    one, two = proven_modules(policy, False)
    assert policy.model.layers[0].mlp in one
    assert policy.model.layers[1].mlp not in two


def test_what_somebody_else_changed_is_left_alone():
    policy = policy_of()
    policy.model.layers[0].mlp.up_proj.register_forward_hook(lambda *_: None)
    policy.model.layers[1].mlp.forward = lambda hidden: hidden
    found = per_token_modules(policy)
    assert all(layer.mlp not in modules for layer, modules in zip(policy.model.layers, found, strict=True))


def test_nobody_elses_random_numbers_are_drawn():
    torch.manual_seed(5)
    policy = policy_of()
    torch.manual_seed(5)
    proven_modules(policy, False)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert drawn.equal(torch.rand(1))


def test_with_checkpointing_each_token_is_computed_as_often_as_without_tiles():
    """Forward and backward: the layer's recomputation ends where the block's input is saved."""

    def rows(policy: nn.Module) -> int:
        seen = []
        policy.model.layers[0].mlp.act_fn.register_forward_hook(
            lambda _, args, __: seen.append(args[0].shape[1])
        )
        checkpoint_layers(policy, 2)
        gradients(policy)
        return sum(seen)

    assert rows(tiled(policy_of(), 8)) == rows(policy_of()) == 2 * len(BATCH.input_ids)
