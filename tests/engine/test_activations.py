"""What a forward pass keeps: measured, counted from shapes alone, and the straight line through both."""

import gc

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from dpotrain.data.batches.packing import pack
from dpotrain.engine.layers.tiling import proven_modules
from dpotrain.engine.memory.activations import Activations, Kept, estimate, measure
from dpotrain.engine.memory.recording import SavedTensors, record
from dpotrain.engine.memory.shapes import activations_from_shapes
from dpotrain.engine.scoring.logprobs import LogitTransform
from dpotrain.engine.scoring.scorer import PackedScorer
from dpotrain.engine.training.all_weights import AllWeights
from dpotrain_plugins.lora import Lora
from tests.engine.pairs import random_pairs
from tests.support import KINDS, tiny_model

DATA = random_pairs([(20, 30, 14)])
ONE, TWO, FIVE = (pack(DATA, [0] * times) for times in (1, 2, 5))
TOKENS = (len(ONE.input_ids), len(TWO.input_ids))
ADAPTERS = {
    "full": lambda: AllWeights(AllWeights.Options()),
    "lora": lambda: Lora(Lora.Options(rank=4)),
    "lora with dropout": lambda: Lora(Lora.Options(rank=4, dropout=0.1)),
}


def scorer_of(kind: str, adapter: str, bf16: bool = False) -> PackedScorer:
    return PackedScorer(ADAPTERS[adapter]().attach(tiny_model(kind).train()), LogitTransform(), bf16)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize(
    "kind", ["gemma2", *(pytest.param(kind, marks=pytest.mark.soak) for kind in ("llama", "phi3"))]
)
def test_shapes_alone_predict_what_is_measured(kind, adapter, bf16):
    scorer = scorer_of(kind, adapter, bf16)
    measured = measure(scorer, ONE, TWO, TOKENS, proven_modules(scorer.policy, bf16))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(KINDS[kind](), dtype=torch.float32).train()
    counted, packs = activations_from_shapes(ADAPTERS[adapter]().attach(model), ONE, TWO, bf16)
    assert packs
    for layers in (0, 1, 2):
        for tile in (0, 100):
            expected = measured.peak(1000, layers, tile)
            assert counted.peak(1000, layers, tile) == pytest.approx(expected, rel=0.01)
    assert measured.peak(1000, 2, 100) < 0.8 * measured.peak(1000, 2)


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_nothing_that_was_measured_stays_in_memory(kind):
    """Functions that keep their own output, as a softmax does, must not be kept by it in turn."""
    scorer = scorer_of(kind, "full")
    measure(scorer, ONE, TWO, TOKENS)
    gc.collect()
    left = [each for each in gc.get_objects() if isinstance(each, SavedTensors)]
    assert not left


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_two_measurements_predict_a_third(adapter):
    scorer = scorer_of("llama", adapter)
    found = measure(scorer, ONE, TWO, TOKENS)
    third = record(scorer, FIVE, scorer)
    kept = sum((*found.layers, found.outside), Kept()).of(len(FIVE.input_ids))
    assert kept == pytest.approx(sum(third.layers) + third.outside, rel=0.001)


def test_weights_and_inputs_are_not_counted_and_nothing_is_counted_twice():
    weight = torch.nn.Parameter(torch.ones(8, 8))

    class Twice(torch.nn.Module):
        def forward(self, batch):
            hidden = torch.ones(len(batch.input_ids), 8) @ weight
            return (hidden * hidden * weight[0]) @ weight

    model = Twice()
    model.weight = weight
    saved = record(model, ONE, model)
    row = 4 * 8 * TOKENS[0]
    # The ones, the hidden state (three times, counted once), its square (saved for weight[0]) and the product.
    assert saved.outside == 4 * row


def test_measuring_changes_nothing():
    scorer = scorer_of("llama", "lora with dropout")
    weights = {name: weight.clone() for name, weight in scorer.named_parameters()}
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    measure(scorer, ONE, TWO, TOKENS)
    assert torch.equal(torch.rand(4), expected)
    assert all(torch.equal(weight, weights[name]) for name, weight in scorer.named_parameters())
    assert all(weight.grad is None for weight in scorer.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in scorer.modules())


def test_a_forward_that_cannot_be_followed_is_estimated():
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(KINDS["mixtral"](), dtype=torch.float32)
    counted, packs = activations_from_shapes(model, ONE, TWO, False)
    assert packs
    assert counted == estimate(model, False)


def test_a_model_that_cannot_pack_is_known():
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(KINDS["gpt_oss"](), dtype=torch.float32)
    assert activations_from_shapes(model, ONE, TWO, False) == (estimate(model, False), False)


kept = st.builds(Kept, st.integers(0, 10**6).map(float), st.integers(1, 10**5).map(float))


@st.composite
def activations(draw):
    layers = draw(st.lists(kept, max_size=6))
    inputs = [Kept(0.0, layer.per_token / draw(st.integers(1, 9))) for layer in layers]
    return Activations(draw(kept), tuple(layers), tuple(inputs), draw(kept))


@given(activations(), st.integers(0, 10**9), st.data())
def test_what_fits_is_the_most_that_fits(found, room, data):
    layers = data.draw(st.integers(0, len(found.layers)))
    tokens = found.most_tokens(room, layers)
    assert tokens == 0 or found.peak(tokens, layers) <= room * (1 + 1e-9)
    assert found.peak(tokens + 1, layers) >= room * (1 - 1e-9)


@given(activations(), st.integers(1, 10**5))
def test_all_layers_checkpointed_never_take_more_than_none(found, tokens):
    none = found.peak(tokens, 0) + sum(entry.of(tokens) for entry in found.inputs)
    assert found.peak(tokens, len(found.layers)) <= none * (1 + 1e-9)
