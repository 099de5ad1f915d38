"""Log-probs by tiles equal a log-softmax over full logits, for every kind of head."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dpotrain.engine.scoring import logprobs
from dpotrain.engine.scoring.logprobs import LogitTransform, completion_sums, token_log_probs

ROWS, HIDDEN, VOCABULARY, TILE = 37, 16, 101, 24
TRANSFORMS = [LogitTransform(), LogitTransform(0.25), LogitTransform(1.0, 5.0), LogitTransform(2.0, 3.0)]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Several tiles, and several chunks of rows, the last of them short."""
    monkeypatch.setitem(logprobs.TILE_LOGITS, "cpu", ROWS * TILE)
    monkeypatch.setattr(logprobs, "NARROWEST_TILE", 1)
    monkeypatch.setitem(logprobs.ROW_LOGITS, "cpu", 16 * VOCABULARY)


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
def test_the_full_logits_never_exist(trained):
    """No operation makes a tensor of rows x vocabulary, and a trained head's logits are made twice."""
    made = []

    class Spy(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                made.append((function, tuple(result.shape)))
            return result

    head = nn.Linear(HIDDEN, VOCABULARY, bias=False).requires_grad_(trained)
    hidden = torch.randn(ROWS, HIDDEN, requires_grad=True)
    with Spy():
        token_log_probs(hidden, head, torch.zeros(ROWS, dtype=torch.int64), LogitTransform()).sum().backward()
    products = [
        shape[1] for function, shape in made if function is torch.ops.aten.mm.default and shape[0] == ROWS
    ]
    tiles = [size for size in products if size != HIDDEN]
    assert max(tiles) == TILE
    assert sum(tiles) == (2 * VOCABULARY if trained else VOCABULARY)
    assert not any(shape[:2] == (ROWS, VOCABULARY) for _, shape in made)


def test_logits_of_any_size_leave_no_hole():
    """A running maximum that grows from tile to tile must not overflow or lose what came before."""
    torch.manual_seed(0)
    head = nn.Linear(HIDDEN, VOCABULARY, bias=False).requires_grad_(False)
    with torch.no_grad():
        head.weight.mul_(torch.linspace(1.0, 400.0, VOCABULARY)[:, None])
    hidden, targets = torch.randn(ROWS, HIDDEN), torch.randint(0, VOCABULARY, (ROWS,))
    got = token_log_probs(hidden, head, targets, LogitTransform())
    assert got.min() < -100
    torch.testing.assert_close(got, definition(hidden, head, targets, LogitTransform()), atol=1e-5, rtol=1e-6)


def test_sums_by_completion():
    got = completion_sums(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), torch.tensor([[1, 2], [1, 1]]))
    assert got.tolist() == [[1.0, 5.0], [4.0, 5.0]]
