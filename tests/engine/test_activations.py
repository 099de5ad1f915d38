"""What a forward pass keeps: measured, counted from shapes alone, and the straight line through both."""

import gc
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.multiprocessing.reductions import StorageWeakRef
from transformers import AutoModelForCausalLM

from dpotrain.data.batches.packing import pack
from dpotrain.engine.layers.checkpointing import decoder_layers
from dpotrain.engine.layers.compiling import compile_layers
from dpotrain.engine.layers.tiling import proven_modules
from dpotrain.engine.memory.activations import Activations, Kept, _with_measured_peak, estimate, measure
from dpotrain.engine.memory.recording import _Recorder, record
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
    left = [each for each in gc.get_objects() if isinstance(each, _Recorder)]
    assert not left


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_a_pass_leaves_nothing_for_the_next_one(kind, monkeypatch):
    """Both together would need half as much again."""
    saved, left = [], []
    save, begin = _Recorder.save, _Recorder.__init__

    def saving(recorder, tensor):
        if tensor.untyped_storage()._cdata not in recorder._seen:
            saved.append(StorageWeakRef(tensor.untyped_storage()))
        return save(recorder, tensor)

    def beginning(recorder, *given):
        left.append(sum(not each.expired() for each in saved))
        begin(recorder, *given)

    monkeypatch.setattr(_Recorder, "save", saving)
    monkeypatch.setattr(_Recorder, "__init__", beginning)
    gc.disable()
    try:
        measure(scorer_of(kind, "full"), ONE, TWO, TOKENS)
        left.append(sum(not each.expired() for each in saved))
    finally:
        gc.enable()
    assert left == [0, 0, 0]
    assert len(saved) > 50


class SimulatedDevice:
    """Allocations of a model of 4 layers on a device of its own: 10 bytes a token of each are kept, 100 each has in
    gradients, and in a backward pass 7 a token are temporary."""

    def __init__(self):
        self.weights = [torch.nn.Parameter(torch.zeros(25)) for _ in range(4)]
        self.allocated = self.most = 0

    def allocate(self, size):
        self.allocated += size
        self.most = max(self.most, self.allocated)

    def __call__(self, batch):
        self.tokens = len(batch.input_ids)
        self.allocate(40 * self.tokens)
        return self

    def sum(self):
        return self

    def parameters(self):
        return self.weights

    def backward(self):
        for weight in self.weights:
            self.allocate(7 * self.tokens)
            if weight.grad is None:
                weight.grad = torch.zeros(25)
                self.allocate(weight.grad.nbytes)
            self.allocate(-17 * self.tokens)


def test_temporary_tensors_are_measured_where_gradients_take_more_than_activations(monkeypatch):
    """The first backward pass never has all gradients beside all activations, and so hides what is temporary."""
    device = SimulatedDevice()
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: device.allocated)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: device.most)
    monkeypatch.setattr(
        torch.cuda, "reset_peak_memory_stats", lambda: setattr(device, "most", device.allocated)
    )
    one, two = (pack(random_pairs([(1, 1, 1)]), [0] * times) for times in (1, 2))
    kept = Activations(Kept(), (Kept(0, 10),) * 4, (Kept(0, 1),) * 4, Kept(0, 99))
    found = _with_measured_peak(kept, device, (one, two), (3, 6))
    assert found.temporary == Kept(0, 7)
    assert all(weight.grad is None for weight in device.weights)


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_compiled_layers_are_measured_one_by_one(adapter):
    eager = measure(scorer_of("llama", adapter), ONE, TWO, TOKENS)
    scorer = scorer_of("llama", adapter)
    compile_layers(scorer.policy)
    calls = [layer._compiled_call_impl for layer in decoder_layers(scorer.policy)]
    found = measure(scorer, ONE, TWO, TOKENS, proven_modules(scorer.policy, False))
    assert [layer._compiled_call_impl for layer in decoder_layers(scorer.policy)] == calls
    for compiled, plain, part in zip(found.layers, eager.layers, found.tiled, strict=True):
        assert 0.2 * plain.of(1000) < compiled.of(1000) <= 1.05 * plain.of(1000)
        assert 0 < part < compiled.per_token
    assert found.inputs == eager.inputs
    assert found.outside == eager.outside
    assert 0 < found.temporary_tiled < found.temporary.per_token


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
