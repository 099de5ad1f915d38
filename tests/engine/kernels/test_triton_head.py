"""Log-probs by Triton's passes over tiles of logits: against float64, and against the plain code."""

import pytest
import torch
from torch import nn

from dpotrain.engine.scoring import logprobs
from dpotrain.engine.scoring.logprobs import LogitTransform, token_log_probs
from tests.engine.kernels.device import DEVICE, import_kernels

kernels = import_kernels("triton_head")
pytestmark = [pytest.mark.cuda] if DEVICE == "cuda" else []

TRANSFORMS = [LogitTransform(), LogitTransform(0.25), LogitTransform(2.0, 3.0)]
ROWS, HIDDEN, VOCABULARY = 5, 16, 101


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Several tiles, the last of them narrower; of blocks that do not divide them."""
    monkeypatch.setitem(logprobs.TILE_LOGITS, DEVICE, ROWS * 44)
    monkeypatch.setattr(logprobs, "NARROWEST_TILE", 1)
    monkeypatch.setattr(kernels, "WORDS", 32)


def build(trained, bias, dtype):
    torch.manual_seed(0)
    head = nn.Linear(HIDDEN, VOCABULARY, bias=bias).to(DEVICE, dtype).requires_grad_(trained)
    hidden = (2 * torch.randn(ROWS, HIDDEN)).to(DEVICE, dtype).requires_grad_()
    return head, hidden, torch.randint(0, VOCABULARY, (ROWS,)).to(DEVICE)


def gradients(log_probs, hidden, head):
    slope = torch.linspace(-1, 2, ROWS).to(DEVICE, log_probs.dtype)
    return torch.autograd.grad(
        log_probs, [hidden, *(each for each in head.parameters() if each.requires_grad)], slope
    )


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("bias", [True, pytest.param(False, marks=pytest.mark.soak)])
@pytest.mark.parametrize("trained", [False, True])
def test_it_is_the_definition(trained, bias, transform):
    head, hidden, targets = build(trained, bias, torch.float32)
    got = token_log_probs(hidden, head, targets, transform, fused=True)
    found = gradients(got, hidden, head)
    exact, exact_hidden = head.double(), hidden.detach().double().requires_grad_()
    raw = exact(exact_hidden) * transform.scale
    logits = raw if transform.softcap is None else transform.softcap * torch.tanh(raw / transform.softcap)
    expected = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    wanted = gradients(expected, exact_hidden, exact)
    for mine, theirs in zip((got, *found), (expected, *wanted), strict=True):
        torch.testing.assert_close(mine.double(), theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("transform", TRANSFORMS[::2])
@pytest.mark.parametrize("trained", [False, True])
def test_bfloat16_is_the_plain_code(trained, transform):
    head, hidden, targets = build(trained, True, torch.bfloat16)
    got, expected = (
        token_log_probs(hidden, head, targets, transform, fused=fused) for fused in (True, False)
    )
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    found, wanted = (gradients(each, hidden, head) for each in (got, expected))
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.dtype == torch.bfloat16
        # The interpreter cuts bfloat16 off instead of rounding.
        assert (mine - theirs).norm() <= 0.03 * theirs.norm()


def test_nothing_is_written_without_gradients(monkeypatch):
    kept = []
    add_tile = kernels.add_tile
    monkeypatch.setattr(kernels, "add_tile", lambda *args: (kept.append(args[-1]), add_tile(*args))[1])
    head, hidden, targets = build(False, False, torch.float32)
    with torch.no_grad():
        hidden = hidden.detach()
        got = token_log_probs(hidden, head, targets, LogitTransform(), fused=True)
    torch.testing.assert_close(got, token_log_probs(hidden, head, targets, LogitTransform()))
    assert kept == [False] * 3


def test_logits_of_any_size_leave_no_hole():
    """A maximum that grows from tile to tile, and words that cannot come."""
    head, hidden, targets = build(False, True, torch.float32)
    with torch.no_grad():
        head.weight.mul_(torch.linspace(1.0, 400.0, VOCABULARY, device=DEVICE)[:, None])
        head.bias[:30] = -torch.inf
    targets = targets.clamp(min=30)
    got = token_log_probs(hidden, head, targets, LogitTransform(), fused=True)
    expected = head(hidden).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-6)
    assert gradients(got, hidden, head)[0].isfinite().all()
    with torch.no_grad():
        head.bias[60] = torch.nan
    assert token_log_probs(hidden, head, targets, LogitTransform(), fused=True).isnan().all()


def test_statistics_are_computed_without():
    head, hidden, targets = build(False, False, torch.float32)
    got, expected = (
        token_log_probs(hidden, head, targets, LogitTransform(), ("entropy",), fused=fused)
        for fused in (True, False)
    )
    assert got.equal(expected)
