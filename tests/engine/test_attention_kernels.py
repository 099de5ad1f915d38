"""Which kernel computes segment attention, what it is given, and under which name transformers knows it."""

from types import SimpleNamespace

import pytest
import torch
import transformers

from dpotrain.data.batches.packing import pack
from dpotrain.data.batches.segments import PairLengths, Segments
from dpotrain.engine.attention import blockwise, packed, varlen
from dpotrain.engine.attention.blockwise import Shape
from dpotrain.engine.memory import shapes
from dpotrain.engine.scoring.logprobs import LogitTransform
from dpotrain.engine.scoring.scorer import PackedScorer
from tests.engine.cuda_stand_ins import on_the_cpu
from tests.engine.pairs import random_pairs
from tests.support import tiny_model

LENGTHS = [PairLengths(7, 3, 9), PairLengths(1, 14, 1), PairLengths(4, 1, 2)]


@pytest.mark.parametrize(
    ("kernel", "window"),
    [(varlen.torch_flash, None), (varlen.torch_flash, 3), (varlen.memory_efficient, None)],
)
def test_kernels_are_given_the_segments(kernel, window, monkeypatch):
    torch.manual_seed(0)
    segments, shape = Segments.of(LENGTHS), Shape(0.3, None, window)
    inputs = [torch.randn(42, heads, 8, requires_grad=True) for heads in (4, 2, 2)]
    slope = torch.randn(42, 4, 8)
    expected = blockwise.attend(*inputs, segments, shape)
    with on_the_cpu(monkeypatch, kernel):
        got = kernel(*inputs, segments, shape)
        mine = torch.autograd.grad(got, inputs, slope)
    torch.testing.assert_close(got, expected)
    for one, other in zip(mine, torch.autograd.grad(expected, inputs, slope), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "size", "value_size", "softcap", "window", "kernel"),
    [
        (torch.bfloat16, 128, 128, None, None, "torch_flash"),
        (torch.bfloat16, 128, 128, None, 3, "torch_flash"),
        (torch.bfloat16, 128, 128, 50.0, 3, "flash_attn"),
        (torch.bfloat16, 320, 320, None, None, "memory_efficient"),
        (torch.bfloat16, 192, 128, None, None, "memory_efficient"),
        (torch.float32, 128, 128, None, None, "memory_efficient"),
        (torch.float32, 128, 128, None, 16, "memory_efficient"),  # the longest segment has 16 keys
        (torch.float32, 128, 128, None, 15, None),
        (torch.float32, 128, 128, 50.0, None, None),
        (torch.float64, 128, 128, None, None, None),
        (torch.bfloat16, 12, 12, None, None, None),
    ],
)
def test_the_kernel_that_covers_it(dtype, size, value_size, softcap, window, kernel, monkeypatch):
    monkeypatch.setattr(varlen, "_has_kernels", True)
    monkeypatch.setattr(varlen, "_has_flash_attn", True)
    query, value = (
        SimpleNamespace(is_cuda=True, dtype=dtype, shape=(42, heads, each))
        for heads, each in ((4, size), (2, value_size))
    )
    found = varlen.choose(query, value, Segments.of(LENGTHS), Shape(1.0, softcap, window))
    assert (found and found.__name__) == kernel
    if kernel == "flash_attn":
        monkeypatch.setattr(varlen, "_has_flash_attn", False)
        assert varlen.choose(query, value, Segments.of(LENGTHS), Shape(1.0, softcap, window)) is None
    monkeypatch.setattr(varlen, "_has_kernels", False)  # an older card
    assert varlen.choose(query, value, Segments.of(LENGTHS), Shape(1.0, softcap, window)) is None


def test_segments_as_cumulative_lengths():
    segments = Segments.of([PairLengths(3, 1, 2), PairLengths(1, 2, 1)])
    assert segments.query_ends.tolist() == [0, 4, 6, 9, 10]
    assert segments.key_ends.tolist() == [0, 4, 9, 12, 14]
    assert segments.keys.tolist() == [0, 1, 2, 3, 0, 1, 2, 4, 5, 6, 7, 8, 6, 9]
    assert (segments.longest_query, segments.longest_key) == (4, 5)
    assert segments.lengths.tolist() == [3, 1, 2, 1, 2, 1]


@pytest.mark.parametrize("name", ["flash_attention_2", "kernels-community/flash-attn2"])
def test_a_model_with_flash_attention_packs(name, monkeypatch):
    """TRAPS: a name registered with "flash" in it, which a library takes for a request to import it."""
    from transformers import masking_utils, modeling_utils

    seen = []

    def stub(module, query, key, value, mask, **_):
        seen.append((module.config._attn_implementation, mask))
        return query.transpose(1, 2), None

    def load(implementation, *_, **__):
        assert implementation == name

    monkeypatch.setattr(modeling_utils, "lazy_import_flash_attention", load)
    monkeypatch.setattr(transformers.PreTrainedModel, "_flash_attn_can_dispatch", lambda *_, **__: True)
    monkeypatch.setitem(modeling_utils.ALL_ATTENTION_FUNCTIONS._local_mapping, name, stub)
    monkeypatch.setitem(
        masking_utils.ALL_MASK_ATTENTION_FUNCTIONS._local_mapping, name, masking_utils.flash_attention_mask
    )
    row = pack(random_pairs([(5, 9, 3), (2, 1, 17)]), range(2))
    model = tiny_model("llama")
    expected = PackedScorer(model, LogitTransform(), bf16=False)(row)
    packed.uninstall(model)
    model.config._attn_implementation_internal = name
    with packed.counting() as calls:
        got = PackedScorer(model, LogitTransform(), bf16=False)(row)
    assert calls.all == model.config.num_hidden_layers
    assert not seen
    assert torch.equal(got, expected)
    model(row.input_ids[None])  # an ordinary forward
    assert seen == [(name, None)] * model.config.num_hidden_layers
    packed.uninstall(model)
    assert model.config._attn_implementation == name


def test_fake_tensors_can_follow_it(monkeypatch):
    """Otherwise `dpotrain plan` would estimate every model from its configuration, without a word."""
    monkeypatch.setattr(shapes, "estimate", lambda *_: pytest.fail("a forward pass of fake tensors fails"))
    one, two = (pack(random_pairs([(31, 12, 17)]), [0] * times) for times in (1, 2))
    found, packs = shapes.activations_from_shapes(tiny_model("llama").to("meta"), one, two, bf16=False)
    assert packs
    assert all(layer.per_token > 0 for layer in found.layers)
