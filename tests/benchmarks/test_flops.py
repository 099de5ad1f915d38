"""The formula counts what torch counts, and attention as the engine cuts it."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode

from dpotrain.data.batches.segments import PairLengths, Segments
from tests.benchmarks.flops import ModelShape, attended, attended_twice
from tests.support import tiny_model

TOKENS = 24
IDS = torch.arange(4, 4 + TOKENS)[None]
WIDE = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 8}
KINDS = [("llama", WIDE), ("qwen3", {**WIDE, "head_dim": 32}), ("gpt2", {"n_embd": 128, "n_layer": 8})]


def counted(model, *, backward: bool) -> int:
    model.set_attn_implementation("eager")
    counter = FlopCounterMode(display=False)
    with counter:
        logits = model(IDS).logits
        if backward:
            logits.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(("kind", "config"), KINDS)
def test_a_forward_pass(kind, config):
    model = tiny_model(kind, **config)
    # Torch counts every query with every key, and this model scores every token.
    expected = ModelShape.of(model).forward(TOKENS, TOKENS**2, TOKENS)
    with torch.no_grad():
        assert counted(model, backward=False) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(("kind", "config"), KINDS)
def test_both_passes_with_all_weights_trained(kind, config):
    model, sizes = tiny_model(kind, **config), (TOKENS, TOKENS**2, TOKENS)
    shape = ModelShape.of(model)
    expected = shape.forward(*sizes) + shape.backward(*sizes)
    assert counted(model, backward=True) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(("kind", "config"), KINDS)
def test_both_passes_with_lora(kind, config):
    model, sizes = tiny_model(kind, **config), (TOKENS, TOKENS**2, TOKENS)
    shape = ModelShape.of(model, rank=8)
    lora = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    expected = shape.forward(*sizes) + shape.backward(*sizes)
    # The first layer's inputs come from frozen embeddings and want no gradient, which the formula does not know.
    assert counted(lora, backward=True) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("rank", [0, 8])
def test_the_parts_add_up_to_the_passes(rank):
    shape, sizes = ModelShape.of(tiny_model("llama", **WIDE), rank), (TOKENS, TOKENS**2, TOKENS // 2)
    sums = {part: sum(each.values()) for part, each in shape.parts(*sizes).items()}
    assert sums["reference"] == shape.forward(*sizes, adapter=False)
    assert sums["forward"] + sums["backward"] == shape.forward(*sizes) + shape.backward(*sizes)


def test_a_token_meets_its_share_of_the_experts():
    some, all_of_them = (
        ModelShape.of(tiny_model("mixtral", num_experts_per_tok=number)).linear for number in (2, 4)
    )
    dense = ModelShape.of(tiny_model("llama")).linear
    routers = 2 * 32 * 4
    one_expert = 2 * 3 * 32 * 64
    assert some - routers == dense + one_expert
    assert all_of_them - routers == dense + 3 * one_expert


def test_attended_is_what_the_segments_see():
    sizes = [(7, 3, 5), (1, 1, 1), (4, 20, 2)]
    for size in sizes:
        seen = sum(
            item.keys - item.queries + place + 1
            for item in Segments.of([PairLengths(*size)]).items
            for place in range(item.queries)
        )
        assert attended(*size) == seen
    assert attended_twice(7, 3, 5) == 10 * 11 // 2 + 12 * 13 // 2
