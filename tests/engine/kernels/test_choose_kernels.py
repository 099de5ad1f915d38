"""Kernels are used that give the plain code's results and are faster; any other is left out, with a note."""

import copy

import pytest
import torch

from dpotrain.data.batches.packing import pack
from dpotrain.engine.layers import choose_kernels as choice
from dpotrain.engine.layers.checkpointing import checkpoint_layers
from dpotrain.engine.layers.choose_kernels import LABELS, Sizes, candidates, choose_kernels, use_kernels
from dpotrain.engine.layers.memory_efficient import use_memory_efficient_layers
from dpotrain.engine.layers.tiling import proven_modules, tile
from dpotrain.engine.scoring.logprobs import LogitTransform
from dpotrain.engine.scoring.scorer import PackedScorer
from dpotrain_plugins.lora import Lora
from tests.engine.kernels.device import DEVICE, import_kernels
from tests.engine.pairs import random_pairs
from tests.support import tiny_model

layers, head = import_kernels("triton_layers"), import_kernels("triton_head")
pytestmark = [pytest.mark.cuda] if DEVICE == "cuda" else []

SIZES = Sizes(
    tokens=6,
    hidden=24,
    intermediate=40,
    heads=4,
    groups=2,
    head_size=8,
    words=50,
    dtype=torch.float32,
    bf16=False,
    trained=True,
    head_trained=True,
)
BATCH = pack(random_pairs([(2, 2, 1), (1, 1, 2)]), [0, 1]).to(torch.device(DEVICE))


@pytest.fixture
def choose(monkeypatch):
    """Return what is chosen of all kernels, and the notes; ``slower`` ones take longer than the plain code."""

    def choose(sizes=SIZES, slower=()):
        notes, calls = [], iter(range(100))
        names = iter([name for name in LABELS for _ in range(2)])

        def milliseconds(call):
            name = next(names)
            is_kernel = next(calls) % 2
            return 2.0 if is_kernel == (name in slower) else 1.0

        monkeypatch.setattr(choice, "_milliseconds", milliseconds)
        if DEVICE == "cpu":  # the interpreter cuts bfloat16 off instead of rounding
            monkeypatch.setitem(choice.CLOSE, torch.bfloat16, 0.05)
        return choose_kernels(LABELS, sizes, torch.device(DEVICE), notes.append), notes

    return choose


@pytest.mark.parametrize(
    "case",
    ["autocast", "frozen", *(pytest.param(each, marks=pytest.mark.soak) for each in ("float32", "bfloat16"))],
)
def test_those_that_are_the_same_and_faster_are_used(choose, case):
    changes = {
        "float32": {},
        "bfloat16": {"dtype": torch.bfloat16},
        "autocast": {"bf16": True},
        "frozen": {"trained": False, "head_trained": False},
    }
    sizes = Sizes(**{name: getattr(SIZES, name) for name in Sizes.__slots__} | changes[case])
    assert choose(sizes) == (set(LABELS), [])
    assert choose(sizes, slower=("swiglu", "head")) == ({"rms_norm", "rotary"}, [])


def test_one_that_computes_something_else_is_not(choose, monkeypatch):
    monkeypatch.setattr(layers, "swiglu", lambda gate, up: layers.plain.swiglu(gate, up) * 1.02)
    chosen, (note,) = choose()
    assert "swiglu" not in chosen
    assert (
        "plain code computes the SwiGLU, because its Triton kernel failed its test: results are 0.02" in note
    )


def test_one_with_wrong_gradients_is_not(choose, monkeypatch):
    monkeypatch.setattr(head, "tile_gradient", lambda raw, *_: raw.zero_())
    chosen, (note,) = choose()
    assert "head" not in chosen
    assert "head" in note


def test_one_that_does_not_compile_is_not(choose, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("Failed to find C compiler.\nmore")

    monkeypatch.setattr(layers, "_rotate", broken)
    chosen, (note,) = choose()
    assert "rotary" not in chosen
    assert note.endswith("failed its test: RuntimeError: Failed to find C compiler.")


def model_of(kind):
    return tiny_model(kind).to(DEVICE).train()


def gradients(model, bf16, fused):
    scorer = PackedScorer(model, LogitTransform(), bf16)
    scorer.fused_head = fused
    scores = scorer(BATCH)
    (scores[:, 0] - scores[:, 1]).sum().backward()
    found = [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]
    model.zero_grad()
    return scores.detach(), found


@pytest.mark.parametrize(
    "way",
    [
        "checkpointed, tiled",
        pytest.param("full", marks=pytest.mark.soak),
        pytest.param("lora, autocast", marks=pytest.mark.soak),
    ],
)
def test_a_model_with_all_of_them_is_the_same_model(way):
    bf16 = "autocast" in way
    model = model_of("qwen3")
    if "lora" in way:
        model = Lora(Lora.Options(rank=2)).attach(model)
    other = copy.deepcopy(model)
    use_memory_efficient_layers(other)
    names = candidates(other)
    assert names == set(LABELS)
    use_kernels(other, names)
    for each in (model, other):
        if "checkpointed" in way:
            checkpoint_layers(each, 2)
        if "tiled" in way:
            tile([module for modules in proven_modules(each, bf16) for module in modules], 4)
    expected, wanted = gradients(model, bf16, False)
    got, found = gradients(other, bf16, True)
    close = 0.05 if bf16 else 1e-4
    torch.testing.assert_close(got, expected, rtol=1e-2 if bf16 else 1e-5, atol=0.05 if bf16 else 5e-5)
    for mine, theirs in zip(found, wanted, strict=True):
        assert (mine - theirs).norm() <= close * theirs.norm() + 1e-6


def test_sizes_are_those_of_the_model():
    model = model_of("llama")
    got = Sizes.of(model, 10_000, bf16=True)
    config = model.config
    assert got.tokens == choice.MOST_TOKENS
    assert (got.hidden, got.intermediate) == (config.hidden_size, config.intermediate_size)
    assert (got.heads, got.groups) == (config.num_attention_heads, config.num_key_value_heads)
    assert got.trained
    assert not Sizes.of(model.requires_grad_(False), 10, bf16=True).trained


def test_what_a_model_does_not_have_is_no_candidate():
    model = model_of("gpt2")
    use_memory_efficient_layers(model)
    assert candidates(model) == {"head"}
