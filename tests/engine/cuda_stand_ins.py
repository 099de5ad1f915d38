"""CUDA's attention kernels, computed on the CPU by their definition, so that what calls them can be tested there."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dpotrain.engine.attention import varlen


@contextmanager
def on_the_cpu(monkeypatch, kernel) -> Iterator[list[int]]:
    """Have segment attention choose a kernel of :mod:`.varlen`, if any; yield its key-value heads, call by call."""
    calls: list[int] = []
    if kernel is None:
        yield calls
        return

    def flash(query, key, value, query_ends, key_ends, *_, scale, window_size_left, **__):
        calls.append(key.shape[1])
        output, sums = _attend(query, key, value, query_ends, key_ends, scale, window_size_left)
        empty = torch.empty(0)
        return output, sums, empty, empty, empty

    def flash_backward(
        grad, query, key, value, output, sums, query_ends, key_ends, *_, scale, window_size_left, **__
    ):
        calls.append(key.shape[1])
        return _gradients(grad, query, key, value, query_ends, key_ends, scale, window_size_left)

    def efficient(
        query, key, value, bias, query_ends, key_ends, longest, key_longest, dropout, mask, *_, **more
    ):
        assert mask == varlen.LOWER_RIGHT
        calls.append(key.shape[2])
        output, _ = _attend(query[0], key[0], value[0], query_ends, key_ends, more["scale"], -1)
        sums = torch.zeros(len(query_ends) - 1, query.shape[2], -(-longest // 32) * 32)  # unused here
        number = torch.zeros((), dtype=torch.int64)
        return output[None], sums, number, number.clone(), longest, key_longest

    def efficient_backward(grad, query, key, value, bias, output, query_ends, key_ends, *_, scale, **__):
        calls.append(key.shape[2])
        rows = (tensor[0] for tensor in (grad, query, key, value))
        found = _gradients(*rows, query_ends, key_ends, scale, -1)
        return (*(each[None] for each in found), torch.empty(0))

    library = torch.library.Library("aten", "IMPL")
    library.impl("_flash_attention_forward", flash, "CPU")
    library.impl("_flash_attention_backward", flash_backward, "CPU")
    library.impl("_efficient_attention_forward", efficient, "CPU")
    library.impl("_efficient_attention_backward", efficient_backward, "CPU")
    monkeypatch.setattr(varlen, "choose", lambda *_: kernel)
    try:
        yield calls
    finally:
        library._destroy()


def _segments(query, key, query_ends, key_ends, scale, left):
    """Yield each segment's places of queries and keys, and its causal weights (heads, queries, keys)."""
    ends = zip(query_ends.tolist(), key_ends.tolist(), strict=True)
    first, key_first = next(ends)
    for last, key_last in ends:
        rows, keys = slice(first, last), slice(key_first, key_last)
        scores = torch.einsum("qhd,khd->hqk", query[rows], key[keys]) * scale
        queries, count = scores.shape[1:]
        place = torch.arange(count - queries, count)[:, None]  # the diagonal ends in the lower right corner
        head = torch.arange(count)
        unseen = (head > place) | ((head < place - left) if left >= 0 else False)
        yield rows, keys, scores.masked_fill(unseen, -torch.inf)
        first, key_first = last, key_last


def _attend(query, key, value, *rest):
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    parts = list(_segments(query, key, *rest))
    output = [torch.einsum("hqk,khd->qhd", scores.softmax(-1), value[keys]) for _, keys, scores in parts]
    return torch.cat(output), torch.cat([scores.logsumexp(-1) for _, _, scores in parts], 1)


def _gradients(grad, query, key, value, query_ends, key_ends, scale, left):
    groups, repeats = key.shape[1], query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    dquery, dkey, dvalue = (torch.empty(each.shape) for each in (query, key, value))
    for rows, keys, scores in _segments(query, key, query_ends, key_ends, scale, left):
        weights = scores.softmax(-1)
        dweights = torch.einsum("qhd,khd->hqk", grad[rows], value[keys])
        dscores = weights * (dweights - (weights * dweights).sum(-1, keepdim=True)) * scale
        dquery[rows] = torch.einsum("hqk,khd->qhd", dscores, key[keys])
        dkey[keys] = torch.einsum("hqk,qhd->khd", dscores, query[rows])
        dvalue[keys] = torch.einsum("hqk,qhd->khd", weights, grad[rows])
    return dquery, *(each.unflatten(1, (groups, repeats)).sum(2) for each in (dkey, dvalue))
