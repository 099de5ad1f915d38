"""Linear layers that keep no casts of float32 weights: the same bits, less memory."""

import pytest
import torch
from torch import nn

from dpotrain.data.batches.packing import pack
from dpotrain.engine.layers.cast_again import _LastInput, cast_again
from dpotrain.engine.layers.checkpointing import checkpoint_layers
from dpotrain.engine.memory.recording import record
from dpotrain.engine.scoring.logprobs import LogitTransform
from dpotrain.engine.scoring.scorer import PackedScorer
from dpotrain_plugins.lora import Lora
from tests.engine.pairs import random_pairs
from tests.support import tiny_model

BATCH = pack(random_pairs([(20, 30, 14), (5, 9, 11)]), [0, 1])


def gradients(model: nn.Module, bf16: bool = True) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    scores = PackedScorer(model, LogitTransform(), bf16)(BATCH)
    (scores * torch.tensor([[1.0, -2.0], [0.5, 3.0]])).sum().backward()
    found = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    return scores.detach(), found


@pytest.mark.parametrize("checkpointed", [0, 1])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_scores_and_gradients_keep_their_bits(kind, checkpointed):
    """With a bias (qwen2) and without, also where a layer is computed again."""
    model = tiny_model(kind).train()
    checkpoint_layers(model, checkpointed)
    scores, expected = gradients(model)
    assert cast_again(model) == 2 * 7
    assert cast_again(model) == 0
    again, found = gradients(model)
    assert again.equal(scores)
    assert all(found[name].equal(gradient) for name, gradient in expected.items())


def test_neither_casts_of_weights_nor_several_of_an_input_are_kept():
    model = tiny_model("llama").train()
    scorer = PackedScorer(model, LogitTransform(), bf16=True)
    before = record(scorer, BATCH, scorer)
    cast_again(model)
    after = record(scorer, BATCH, scorer)
    config = model.config
    weights = sum(
        module.weight.numel() for module in model.model.layers[0].modules() if isinstance(module, nn.Linear)
    )
    # Of the inputs, two of the three of queries, keys and values, and one of the two of gate and up.
    inputs = 3 * len(BATCH.input_ids) * config.hidden_size
    for less, more in zip(after.layers, before.layers, strict=True):
        assert more - less == 2 * (weights + inputs)


def test_nothing_changes_in_float32_and_without_gradients():
    model = tiny_model("llama").train()
    scores, expected = gradients(model, bf16=False)
    with torch.no_grad():
        low = PackedScorer(model, LogitTransform(), bf16=True)(BATCH)
    cast_again(model)
    again, found = gradients(model, bf16=False)
    assert again.equal(scores)
    assert all(found[name].equal(gradient) for name, gradient in expected.items())
    with torch.no_grad():
        assert PackedScorer(model, LogitTransform(), bf16=True)(BATCH).equal(low)


def test_only_plain_layers_whose_float32_weights_are_trained_are_replaced():
    assert cast_again(Lora(Lora.Options(rank=4)).attach(tiny_model("llama"))) == 0
    assert cast_again(tiny_model("llama").requires_grad_(False)) == 0
    assert cast_again(tiny_model("llama").bfloat16()) == 0
    model = tiny_model("llama")
    model.model.layers[0].self_attn.q_proj.register_forward_hook(lambda *_: None)
    model.model.layers[0].self_attn.k_proj.weight.requires_grad_(False)
    names, kinds = list(model.state_dict()), [type(module).__name__ for module in model.modules()]
    assert cast_again(model) == 2 * 7 - 2
    assert type(model.lm_head) is nn.Linear
    assert names == list(model.state_dict())
    assert kinds == [type(module).__name__ for module in model.modules()]


def test_a_frozen_input_and_a_weight_frozen_later_get_no_gradient():
    model = tiny_model("llama").train()
    cast_again(model)
    model.model.embed_tokens.weight.requires_grad_(False)
    layer = model.model.layers[0].self_attn.q_proj
    layer.weight.requires_grad_(False)
    PackedScorer(model, LogitTransform(), bf16=True)(BATCH).sum().backward()
    assert layer.weight.grad is None
    assert model.model.layers[0].self_attn.k_proj.weight.grad is not None


def test_a_copy_is_shared_while_its_input_lives_and_stays_as_it_is():
    inputs = _LastInput()
    rows = torch.randn(3, 2)
    copy = inputs.cast(rows)
    assert inputs.cast(rows) is copy
    rows.add_(1)
    changed = inputs.cast(rows)
    assert changed is not copy
    assert changed.equal(rows.bfloat16())
    other = torch.randn(3, 2)
    assert inputs.cast(other).equal(other.bfloat16())
    del rows  # an input before the last
    assert inputs._copy is not None
    del other
    assert inputs._copy is None
