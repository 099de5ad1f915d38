"""Memory-efficient norms and blocks: the model's own bits forward, autograd's gradients backward, less memory."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dpotrain.data.batches.packing import pack
from dpotrain.engine.kernels.plain import rms_norm, swiglu
from dpotrain.engine.layers.memory_efficient import (
    Functions,
    functions_of,
    use_functions,
    use_memory_efficient_layers,
)
from dpotrain.engine.memory.recording import record
from dpotrain.engine.scoring.logprobs import LogitTransform
from dpotrain.engine.scoring.scorer import PackedScorer
from dpotrain_plugins.lora import Lora
from tests.engine.pairs import random_pairs
from tests.support import tiny_model

DATA = random_pairs([(20, 30, 14), (5, 9, 11)])
BATCH = pack(DATA, [0, 1])
#: Norms, blocks and attention modules that are replaced in a model of two layers.
REPLACED = {"llama": 2 * 2 + 1 + 2 + 2, "qwen3": 4 * 2 + 1 + 2 + 2, "gemma2": 2, "gpt2": 0}


def gradients(model: nn.Module, bf16: bool = False) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    scorer = PackedScorer(model, LogitTransform(), bf16)
    scores = scorer(BATCH)
    (scores * torch.tensor([[1.0, -2.0], [0.5, 3.0]])).sum().backward()
    found = {
        name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None
    }
    model.zero_grad()
    return scores.detach(), found


@pytest.mark.parametrize("kind", REPLACED)
def test_the_modules_that_are_known_are_replaced_and_no_others(kind):
    model = tiny_model(kind)
    assert use_memory_efficient_layers(model) == REPLACED[kind]
    assert use_memory_efficient_layers(model) == 0


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_the_scores_keep_their_bits_and_the_gradients_their_values(kind, lora, bf16):
    model = tiny_model(kind).train()
    if lora:
        model = Lora(Lora.Options(rank=4)).attach(model)
    scores, expected = gradients(model, bf16)
    assert use_memory_efficient_layers(model)
    again, found = gradients(model, bf16)
    assert again.equal(scores)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        close = 0.05 if bf16 else 1e-4
        assert (found[name] - gradient).norm() <= close * gradient.norm() + 1e-6, name


@pytest.mark.parametrize("bf16", [False, True])
def test_less_is_kept(bf16):
    model = tiny_model("llama").train()
    scorer = PackedScorer(model, LogitTransform(), bf16)
    before = sum(record(scorer, BATCH, scorer).layers)
    use_memory_efficient_layers(model)
    assert sum(record(scorer, BATCH, scorer).layers) < 0.85 * before


def test_state_and_classes_stay():
    model = tiny_model("llama")
    kinds = [type(module) for module in model.modules()]
    names = list(model.state_dict())
    use_memory_efficient_layers(model)
    assert all(isinstance(module, kind) for module, kind in zip(model.modules(), kinds, strict=True))
    assert [type(module).__name__ for module in model.modules()] == [kind.__name__ for kind in kinds]
    assert list(model.state_dict()) == names


def test_layers_share_their_classes_and_models_not_their_functions():
    one, other = tiny_model("llama"), tiny_model("llama")
    for model in (one, other):
        use_memory_efficient_layers(model)
    scores = gradients(other)[0]
    called = []

    def named(name):
        return lambda *given: (called.append(name), getattr(Functions(), name)(*given))[1]

    use_functions(one, Functions(**{name: named(name) for name in functions_of(one)}))
    for model in (one, other):
        first, second = ([type(part) for part in layer.modules()] for layer in model.model.layers)
        assert first == second
    assert gradients(other)[0].equal(scores)
    assert called == []
    assert gradients(one)[0].equal(scores)
    assert {name: called.count(name) for name in called} == {"rms_norm": 5, "rotary": 2, "swiglu": 2}


def test_a_model_without_numbers_is_proven_as_well():
    with torch.device("meta"):
        model = type(tiny_model("llama"))(tiny_model("llama").config)
    assert use_memory_efficient_layers(model) == REPLACED["llama"]


def test_nobody_elses_random_numbers_are_drawn():
    model = tiny_model("llama")
    torch.manual_seed(5)
    use_memory_efficient_layers(model)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert drawn.equal(torch.rand(1))


def test_another_activation_function_is_left_alone():
    config = tiny_model("llama").config
    config.hidden_act = "gelu"
    model = type(tiny_model("llama"))(config)
    assert use_memory_efficient_layers(model) == REPLACED["llama"] - 2  # the norms


class OffByOne(nn.Module):
    """Has an RMSNorm's attributes and computes something else."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(8))
        self.variance_epsilon = 1e-6

    def forward(self, hidden_states):
        return rms_norm(hidden_states, 1 + self.weight, self.variance_epsilon)


class Choosy(OffByOne):
    """Computes an RMSNorm or something else, by a setting that differs between modules."""

    def __init__(self, add: float) -> None:
        super().__init__()
        self.add = add

    def forward(self, hidden_states):
        return rms_norm(hidden_states, self.add + self.weight, self.variance_epsilon)


def test_a_norm_that_also_takes_a_gate_is_left_alone():
    from transformers.models.bamba.modeling_bamba import BambaRMSNormGated

    assert use_memory_efficient_layers(BambaRMSNormGated(16, 16)) == 0


def test_what_computes_something_else_is_left_alone():
    assert use_memory_efficient_layers(nn.Sequential(OffByOne())) == 0
    assert use_memory_efficient_layers(nn.Sequential(Choosy(0.0), Choosy(1.0), Choosy(0.0))) == 2


def test_what_somebody_else_changed_is_left_alone():
    hooked, patched = Choosy(0.0), Choosy(0.0)
    hooked.register_forward_hook(lambda *_: None)
    patched.forward = lambda hidden_states: hidden_states
    assert use_memory_efficient_layers(nn.Sequential(hooked, patched)) == 0


def kinds_that_rotate_differently():
    from transformers.models.glm.modeling_glm import GlmAttention  # neighbours make a pair
    from transformers.models.hunyuan_v1_dense.modeling_hunyuan_v1_dense import (
        HunYuanDenseV1Attention,  # a norm follows
    )

    return GlmAttention, HunYuanDenseV1Attention


def test_a_rotation_of_another_kind_is_left_alone():
    from transformers.models.llama.modeling_llama import LlamaAttention, LlamaConfig

    config = LlamaConfig(hidden_size=16, intermediate_size=16, num_attention_heads=2, attention_bias=False)
    config.use_qk_norm = True
    for kind, expected in (*((kind, 0) for kind in kinds_that_rotate_differently()), (LlamaAttention, 1)):
        attention = kind(config, 0)
        forward = type(attention).forward
        use_memory_efficient_layers(attention)
        assert ("rotary" in functions_of(attention)) == expected, kind
        assert kind.forward is forward


def test_the_models_own_attention_still_serves_ordinary_forwards():
    """Packed attention looks for eager attention in the file of the class, whose forward is replaced."""
    model = tiny_model("llama", attn_implementation="eager")
    tokens = torch.arange(3, 9)[None]
    expected = model(tokens).logits
    use_memory_efficient_layers(model)
    PackedScorer(model, LogitTransform(), False)
    assert model(tokens).logits.equal(expected)


def test_arguments_that_are_not_known_go_to_the_models_own_function():
    model = tiny_model("llama")
    use_memory_efficient_layers(model)
    own = []
    rotation = next(each.rotation for each in model.modules() if hasattr(each, "rotation"))
    rotation = replace(rotation, own=lambda *args, **kwargs: own.append((args, kwargs)))
    query, key, tables = torch.randn(1, 2, 3, 8), torch.randn(1, 1, 3, 8), torch.randn(1, 3, 8)
    assert len(rotation(query, key, tables, tables)) == 2
    assert own == []
    rotation(query, key, tables, tables, unsqueeze_dim=2)
    rotation(query, key, tables[..., :4], tables[..., :4])  # part of each head
    rotation(query, key, tables[0], tables[0])
    rotation(query, key, tables.requires_grad_(), tables)
    assert len(own) == 4


DTYPES = st.sampled_from([torch.float32, torch.bfloat16])


@given(
    rows=st.integers(1, 9),
    size=st.integers(1, 40),
    dtype=DTYPES,
    wide=st.booleans(),
    seed=st.integers(0, 999),
)
def test_the_norm_is_its_formula(rows, size, dtype, wide, seed):
    torch.manual_seed(seed)
    hidden = torch.randn(rows, size).to(dtype).requires_grad_()
    weight = torch.randn(size).to(torch.float32 if wide else dtype).requires_grad_()
    given_grad = torch.randn(rows, size)

    def plain(hidden, weight):
        return weight * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + 1e-3)

    exact = plain(hidden.double(), weight.double())
    wanted = torch.autograd.grad((exact * given_grad).sum(), (hidden, weight))
    got = rms_norm(hidden, weight, 1e-3)
    found = torch.autograd.grad((got * given_grad).sum(), (hidden, weight))
    assert [each.dtype for each in found] == [hidden.dtype, weight.dtype]
    close = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.1}
    torch.testing.assert_close(got.double(), exact, **close)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, **close)


@given(rows=st.integers(1, 9), size=st.integers(1, 40), dtype=DTYPES, seed=st.integers(0, 999))
def test_the_product_is_its_formula(rows, size, dtype, seed):
    torch.manual_seed(seed)
    gate, up = (torch.randn(rows, size).to(dtype).requires_grad_() for _ in range(2))
    given_grad = torch.randn(rows, size).to(dtype)
    expected = F.silu(gate) * up
    wanted = torch.autograd.grad(expected, (gate, up), given_grad)
    got = swiglu(gate, up)
    assert got.equal(expected)
    for one, other in zip(torch.autograd.grad(got, (gate, up), given_grad), wanted, strict=True):
        torch.testing.assert_close(one, other)
