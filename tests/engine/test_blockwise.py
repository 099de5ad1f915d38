"""Segment attention from matrix products equals attention under an explicit mask."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from dpotrain.data.batches.segments import PairLengths, Segments
from dpotrain.engine.attention import blocks
from dpotrain.engine.attention.blocks import ACCELERATOR, CPU, FEWEST_QUERIES, lay_out
from dpotrain.engine.attention.blockwise import Shape, attend

BLOCK = CPU.block


def masked_attention(query, key, value, segments, shape):
    """The definition: a dense mask, repeated heads, softmax over what is seen."""
    count = len(query)
    seen = torch.zeros(count, count, dtype=torch.bool)
    for segment in segments.items:
        keys = torch.cat([torch.arange(*stretch) for stretch in segment.stretches])
        for number in range(segment.queries):
            place = len(keys) - segment.queries + number
            first = 0 if shape.window is None else max(0, place - shape.window + 1)
            seen[segment.query_start + number, keys[first : place + 1]] = True
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scores = torch.einsum("qhd,khd->hqk", query, key) * shape.scale
    if shape.softcap is not None:
        scores = shape.softcap * torch.tanh(scores / shape.softcap)
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, value)


def compare(lengths, shape, heads=4, groups=2):
    torch.manual_seed(0)
    segments = Segments.of(lengths)
    count = sum(pair.total for pair in lengths)
    inputs = [
        torch.randn(count, number, size, requires_grad=True)
        for number, size in ((heads, 8), (groups, 8), (groups, 12))
    ]
    got, expected = attend(*inputs, segments, shape), masked_attention(*inputs, segments, shape)
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-5)
    slope = torch.randn_like(expected)
    for mine, theirs in zip(
        torch.autograd.grad(got, inputs, slope), torch.autograd.grad(expected, inputs, slope), strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=5e-5, rtol=1e-4)


SIZE = st.integers(1, 24)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.tuples(SIZE, SIZE, SIZE), min_size=1, max_size=4),
    window=st.none() | st.integers(1, 30),
    softcap=st.none() | st.floats(0.5, 30),
    groups=st.sampled_from([1, 2, 4]),
)
def test_it_equals_masked_attention(sizes, window, softcap, groups):
    compare([PairLengths(*size) for size in sizes], Shape(0.3, softcap, window), groups=groups)


NONE, SOME = replace(CPU, together=0), replace(CPU, together=1 << 13)


@pytest.fixture
def with_sizes(monkeypatch):
    def use(sizes):
        monkeypatch.setattr(blocks, "CPU", sizes)
        lay_out.cache_clear()

    yield use
    lay_out.cache_clear()


@pytest.mark.parametrize(
    "sizes", [NONE, SOME, CPU, ACCELERATOR], ids=["none together", "some", "all", "on an accelerator"]
)
@pytest.mark.parametrize("window", [None, 5, BLOCK, BLOCK + 40])
def test_segments_longer_than_a_block(window, sizes, with_sizes):
    with_sizes(sizes)
    compare([PairLengths(BLOCK + 7, 2 * BLOCK, 3), PairLengths(1, 1, BLOCK)], Shape(0.3, None, window))


def test_segments_of_similar_size_are_computed_together():
    """Their products by themselves are too small for several threads."""

    class Products(TorchDispatchMode):
        shapes = ()

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function in (torch.ops.aten.baddbmm_.default, torch.ops.aten.bmm.out):
                self.shapes += (tuple(args[0].shape),)
            return function(*args, **(kwargs or {}))

    lengths = [PairLengths(20, 10, 12), PairLengths(18, 12, 12), PairLengths(20, 10, 11)]
    count = sum(pair.total for pair in lengths)
    rows = [torch.randn(count, heads, 8) for heads in (4, 2, 2)]
    with Products() as seen:
        attend(*rows, Segments.of(lengths), Shape(0.3, None, None))
    (scores, values) = seen.shapes
    assert scores[0] == values[0] == 2 * len(lengths) * 2  # groups, and two segments a pair


def test_an_accelerator_has_few_operations_to_launch():
    """A row of 8,192 tokens, attended over in its window by the 8 heads of a model with soft caps."""
    pairs = [
        PairLengths(*sizes) for sizes in ((900, 300, 250), (150, 200, 180), (40, 60, 45), (700, 650, 621))
    ] * 2
    items = Segments.of(pairs).items
    counts = [
        len(lay_out(items, 4096, 8, 4, torch.float32, torch.device(kind)).batches) for kind in ("cpu", "meta")
    ]
    assert counts[0] > 40
    assert counts[1] <= 4


def test_float16_has_room_for_the_mask():
    """Pairs of different lengths, so that queries and keys are padded, in the dtype with the smallest range."""
    torch.manual_seed(0)
    lengths, shape = [PairLengths(5, 9, 2), PairLengths(3, 7, 4)], Shape(0.3, None, None)
    low = [torch.randn(30, heads, 8, dtype=torch.float16, requires_grad=True) for heads in (4, 2, 2)]
    exact = [each.detach().float().requires_grad_() for each in low]
    got, expected = (attend(*each, Segments.of(lengths), shape) for each in (low, exact))
    torch.testing.assert_close(got.float(), expected, atol=1e-2, rtol=1e-2)
    slope = torch.randn(30, 4, 8).half()
    mine, theirs = torch.autograd.grad(got, low, slope), torch.autograd.grad(expected, exact, slope.float())
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one.float(), other, atol=2e-2, rtol=2e-2)


def test_bfloat16_sums_gradients_of_a_shared_prompt_in_float32():
    torch.manual_seed(0)
    lengths = [PairLengths(300, 200, 200)]
    segments, shape = Segments.of(lengths), Shape(0.125, None, None)
    exact = [torch.randn(700, heads, 64) for heads in (2, 1, 1)]
    low = [tensor.bfloat16().requires_grad_() for tensor in exact]
    exact = [tensor.detach().float().requires_grad_() for tensor in low]
    slope = torch.randn(700, 2, 64).bfloat16()
    got = torch.autograd.grad(attend(*low, segments, shape), low, slope)
    expected = torch.autograd.grad(attend(*exact, segments, shape), exact, slope.float())
    for mine, theirs in zip(got, expected, strict=True):
        error = (mine.float() - theirs).norm() / theirs.norm()
        assert error < 0.01


def test_blocks_of_long_rows_have_fewer_queries(with_sizes):
    """Otherwise the scores of a block would grow with the longest pair, and with the number of its heads."""
    with_sizes(replace(CPU, block_scores=1 << 12, together=1 << 12))
    compare([PairLengths(70, 33, 90)], Shape(0.125, None, None))

    class Largest(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                self.numbers = max(self.numbers, result.numel())
            return result

    keys, heads = 1024, 4
    rows = [torch.randn(keys, number, 8, requires_grad=True) for number in (heads, 2, 2)]
    with Largest() as seen:
        attend(*rows, Segments.of([PairLengths(keys - 2, 1, 1)]), Shape(1.0, None, None)).sum().backward()
    assert seen.numbers <= FEWEST_QUERIES * heads * keys
