"""Attention of divided rows: the exchange laid out by hand, without processes, and by threads that exchange."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from dpotrain.core.errors import RunError
from dpotrain.data.batches.row_slices import slice_length
from dpotrain.data.batches.segments import PairLengths, Segments
from dpotrain.engine.attention.blockwise import Shape, attend
from dpotrain.engine.attention.head_exchange import (
    HeadExchange,
    by_heads,
    by_tokens,
    check_heads,
    of_all_tokens,
    repeats,
    with_all_heads,
)
from tests.engine.context_threads import in_threads

SIZE = st.integers(1, 12)


def row_of(lengths, heads, groups, size=8, value_size=12):
    torch.manual_seed(0)
    tokens = sum(pair.total for pair in lengths)
    shapes = ((heads, size), (groups, size), (groups, value_size))
    return [torch.randn(tokens, *shape, requires_grad=True) for shape in shapes]


def slices_of(tensor, ranks):
    """Equal slices of a row; filler tokens are no numbers, so that it shows where one is used."""
    length = slice_length(len(tensor), ranks)
    return F.pad(tensor, (0, 0, 0, 0, 0, ranks * length - len(tensor)), value=torch.nan).split(length)


def swapped(sent):
    """What an all-to-all makes of what each rank sends."""
    return [torch.stack([each[rank] for each in sent]) for rank in range(len(sent))]


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.tuples(SIZE, SIZE, SIZE), min_size=1, max_size=3),
    heads_and_ranks=st.sampled_from([(4, 4, 1), (4, 4, 2), (4, 2, 2), (6, 6, 3), (4, 4, 4), (12, 6, 3)]),
    window=st.none() | st.integers(1, 20),
)
def test_exchanged_attention_is_that_of_the_whole_row(sizes, heads_and_ranks, window):
    heads, groups, ranks = heads_and_ranks
    lengths = [PairLengths(*size) for size in sizes]
    inputs, segments, shape = row_of(lengths, heads, groups), Segments.of(lengths), Shape(0.3, None, window)
    tokens = len(inputs[0])
    sent = [
        by_heads(parts, ranks) for parts in zip(*(slices_of(each, ranks) for each in inputs), strict=True)
    ]
    outputs = []
    for received in swapped(sent):
        query, key, value = of_all_tokens(received, [each.shape[1:] for each in inputs], tokens)
        assert query.shape == (tokens, heads // ranks, 8)
        outputs.append(by_tokens(attend(query, key, value, segments, shape), ranks))
    got = torch.cat([with_all_heads(received, 12) for received in swapped(outputs)])
    assert not got[tokens:].any()
    expected = attend(*inputs, segments, shape)
    torch.testing.assert_close(got[:tokens], expected)
    slope = torch.randn_like(expected)
    for mine, theirs in zip(
        torch.autograd.grad(got[:tokens], inputs, slope),
        torch.autograd.grad(expected, inputs, slope),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(
    ("heads", "groups", "ranks"), [(4, 4, 2), (4, 2, 2), (4, 2, 4), (4, 1, 2), (12, 3, 2), (12, 4, 6)]
)
def test_key_value_heads_are_repeated_as_far_as_ranks_need_it(heads, groups, ranks):
    lengths = [PairLengths(5, 3, 4), PairLengths(2, 6, 1)]
    inputs, segments, shape = row_of(lengths, heads, groups), Segments.of(lengths), Shape(0.3, None, None)
    expected = attend(*inputs, segments, shape)
    slope = torch.randn_like(expected)
    of_slope = slices_of(slope, ranks)

    def one(context):
        own = [slices_of(each.detach(), ranks)[context.rank].requires_grad_() for each in inputs]
        exchange = HeadExchange(context, len(expected))
        query, key, value = exchange.to_heads(*own)
        assert (key.shape[1], value.shape[1]) == (groups * repeats(groups, ranks) // ranks,) * 2
        output = exchange.to_tokens(attend(query, key, value, segments, shape))
        gradients = torch.autograd.grad(output, own, of_slope[context.rank].nan_to_num())
        return [output.detach(), *gradients]

    got = [torch.cat(parts)[: len(expected)] for parts in zip(*in_threads(ranks, one), strict=True)]
    wanted = [expected, *torch.autograd.grad(expected, inputs, slope)]
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(
    ("heads", "ranks", "would_do"),
    [(4, 3, "2 or 4"), (14, 4, "2, 7 or 14"), (9, 2, "3 or 9"), (32, 64, "2, 4, 8, 16 or 32"), (1, 2, "1")],
)
def test_heads_that_cannot_be_shared_are_refused_with_the_numbers_that_would_do(heads, ranks, would_do):
    with pytest.raises(RunError) as caught:
        check_heads(heads, ranks)
    assert f"parallel.context = {ranks}: the model has {heads} attention heads" in str(caught.value)
    assert str(caught.value).endswith(f"Set parallel.context to {would_do}.")
    check_heads(heads, 1)
