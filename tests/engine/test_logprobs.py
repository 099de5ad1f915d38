"""Chunked log-probs equal a log-softmax over full logits, for every kind of head."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dpotrain.engine import logprobs
from dpotrain.engine.logprobs import LogitTransform, completion_sums, token_log_probs

ROWS, HIDDEN, VOCABULARY = 37, 16, 101
TRANSFORMS = [LogitTransform(), LogitTransform(0.25), LogitTransform(1.0, 5.0), LogitTransform(2.0, 3.0)]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Several chunks, the last of them short."""
    monkeypatch.setitem(logprobs.CHUNK_NUMBERS, "cpu", 16 * VOCABULARY)


def definition(hidden, head, targets, transform):
    raw = head(hidden).float() * transform.scale
    logits = raw if transform.softcap is None else transform.softcap * torch.tanh(raw / transform.softcap)
    return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]


def compare(head, transform, trained):
    torch.manual_seed(1)
    hidden = torch.randn(ROWS, HIDDEN, requires_grad=True)
    targets = torch.randint(0, VOCABULARY, (ROWS,))
    weights = [hidden, *(weight for weight in head.parameters() if weight.requires_grad)]
    assert (len(weights) > 1) == trained
    got, expected = (function(hidden, head, targets, transform) for function in (token_log_probs, definition))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    slope = torch.randn(ROWS)
    for mine, theirs in zip(
        torch.autograd.grad(got, weights, slope), torch.autograd.grad(expected, weights, slope), strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("trained", [False, True])
def test_a_plain_head(transform, bias, trained):
    torch.manual_seed(0)
    compare(nn.Linear(HIDDEN, VOCABULARY, bias=bias).requires_grad_(trained), transform, trained)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_lora_on_the_head(transform):
    from peft.tuners.lora import Linear, LoraConfig

    torch.manual_seed(0)
    base = nn.Linear(HIDDEN, VOCABULARY, bias=False).requires_grad_(False)
    head = Linear(base, "default", config=LoraConfig(r=4, lora_alpha=8), r=4, lora_alpha=8)
    nn.init.normal_(head.lora_B["default"].weight)
    compare(head, transform, trained=True)


def test_a_tied_head_collects_both_gradients():
    torch.manual_seed(0)
    embeddings = nn.Embedding(VOCABULARY, HIDDEN)
    head = nn.Linear(HIDDEN, VOCABULARY, bias=False)
    head.weight = embeddings.weight
    ids, targets = torch.randint(0, VOCABULARY, (2, ROWS))
    got = token_log_probs(embeddings(ids), head, targets, LogitTransform()).sum()
    expected = definition(embeddings(ids), head, targets, LogitTransform()).sum()
    (mine,), (theirs,) = (torch.autograd.grad(total, [embeddings.weight]) for total in (got, expected))
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("trained", [False, True])
def test_autocast_multiplies_in_bfloat16_and_sums_in_float32(trained):
    """TRAPS: sequence log-probs summed in bf16."""
    torch.manual_seed(0)
    head = nn.Linear(HIDDEN, VOCABULARY, bias=False).requires_grad_(trained)
    hidden = torch.randn(ROWS, HIDDEN, requires_grad=True)
    targets = torch.randint(0, VOCABULARY, (ROWS,))
    with torch.autocast("cpu", torch.bfloat16):
        got = token_log_probs(hidden, head, targets, LogitTransform())
    low = (hidden.bfloat16() @ head.weight.bfloat16().t()).float().log_softmax(-1)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, low.gather(1, targets[:, None])[:, 0], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("trained", [False, True])
def test_the_full_logits_never_exist(trained, monkeypatch):
    seen = []
    plain = logprobs._logits

    def spy(hidden, weight, bias, transform):
        logits = plain(hidden, weight, bias, transform)
        seen.append(tuple(logits.shape))
        return logits

    monkeypatch.setattr(logprobs, "_logits", spy)
    head = nn.Linear(HIDDEN, VOCABULARY).requires_grad_(trained)
    hidden = torch.randn(ROWS, HIDDEN, requires_grad=True)
    token_log_probs(hidden, head, torch.zeros(ROWS, dtype=torch.int64), LogitTransform()).sum().backward()
    assert seen
    assert max(rows for rows, _ in seen) == 16
    # A frozen head's gradient is formed in the forward pass; a trained head's logits are made twice.
    assert sum(rows for rows, _ in seen) == (2 * ROWS if trained else ROWS)


def test_sums_by_completion():
    got = completion_sums(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), torch.tensor([[1, 2], [1, 1]]))
    assert got.tolist() == [[1.0, 5.0], [4.0, 5.0]]
