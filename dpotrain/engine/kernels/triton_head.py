"""What becomes of a tile of logits, as Triton kernels: read, reduced and overwritten by what its product needs.

A program takes a row of the tile, (words,) raw outputs of the head: in a first loop over the row it finds the largest
logit, in a second one it forms exponentials and writes them where the outputs were.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

#: Words that a program takes at a time.
WORDS = 1 << 12


def add_tile(
    raw: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    first: int,
    scale: float,
    softcap: float | None,
    sums: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    keep: bool,
) -> torch.Tensor:
    """Add the words ``first``, ``first + 1``, … of the vocabulary to the sums of every row, in place.

    ``raw`` (S, words) is the head's output for them, without its ``bias`` (words,); logits are
    ``softcap * tanh(scale * x / softcap)``. ``sums`` are the largest logit so far, the sum of exponentials relative to
    it, both (S, 1), and the target's logit (S,), in float32. With ``keep``, ``raw`` is overwritten by exponentials
    relative to the largest logit so far, times the logits' derivatives. Returned is the (S, 1) factor that rescales
    what was summed before to that logit.
    """
    rows, words = raw.shape
    largest, total, target = sums
    shrink = torch.empty_like(total)
    _add_tile[(rows,)](
        raw, _pointer(bias, raw), targets, largest, total, target, shrink, words, first, scale, softcap or 0.0,
        BIASED=bias is not None, CAPPED=softcap is not None, SCALED=scale != 1.0, KEEP=keep, BLOCK=WORDS, num_warps=8,
    )  # fmt: skip
    return shrink


def tile_gradient(
    raw: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    first: int,
    scale: float,
    softcap: float | None,
    log_sum: torch.Tensor,
    grad: torch.Tensor,
) -> None:
    """Overwrite ``raw`` by the gradient with respect to it of log p(target), times ``grad`` (S,).

    Arguments are those of :func:`add_tile`; ``log_sum`` (S, 1) float32 is the logarithm of the sum over all words.
    """
    rows, words = raw.shape
    _tile_gradient[(rows,)](
        raw, _pointer(bias, raw), targets, log_sum, grad, words, first, scale, softcap or 0.0,
        BIASED=bias is not None, CAPPED=softcap is not None, SCALED=scale != 1.0, BLOCK=WORDS, num_warps=8,
    )  # fmt: skip


def _pointer(bias: torch.Tensor | None, other: torch.Tensor) -> torch.Tensor:
    """Return what is passed for a bias; any tensor where there is none."""
    return other if bias is None else bias.contiguous()


@triton.jit
def _logits(
    raw, bias, place, inside, scale, softcap,
    BIASED: tl.constexpr, CAPPED: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    """Return some logits of a row in float32, minus infinity outside, and their derivatives."""
    logits = tl.load(raw + place, mask=inside, other=0.0).to(tl.float32)
    if BIASED:
        logits += tl.load(bias + place, mask=inside, other=0.0).to(tl.float32)
    if SCALED:
        logits *= scale
    slope = tl.full(logits.shape, scale, tl.float32)
    if CAPPED:
        # tanh, by the exponential of a number that is not positive
        power = tl.exp(-2.0 * tl.abs(logits / softcap))
        tanh = (1.0 - power) / (1.0 + power)
        slope = slope * (1.0 - tanh * tanh)
        logits = tl.where(logits < 0, -softcap * tanh, softcap * tanh)
    return tl.where(inside, logits, float("-inf")), slope


@triton.jit
def _add_tile(
    raw, bias, targets, largest, total, target, shrink, words, first, scale, softcap,
    BIASED: tl.constexpr, CAPPED: tl.constexpr, SCALED: tl.constexpr, KEEP: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    start = raw + row.to(tl.int64) * words
    column = tl.arange(0, BLOCK)
    wanted = tl.load(targets + row) - first
    before = tl.load(largest + row)
    most = tl.full((BLOCK,), float("-inf"), tl.float32)
    found = tl.zeros((BLOCK,), tl.float32)
    for block in range(0, words, BLOCK):
        place = block + column
        logits, _ = _logits(start, bias, place, place < words, scale, softcap, BIASED, CAPPED, SCALED)
        most = tl.maximum(most, logits)
        found += tl.where(place == wanted, logits, 0.0)
    now = tl.maximum(before, tl.max(most, 0))
    # Where all were minus infinity so far, differences would not be numbers.
    base = tl.where(now == float("-inf"), 0.0, now)
    part = tl.zeros((BLOCK,), tl.float32)
    for block in range(0, words, BLOCK):
        place = block + column
        inside = place < words
        logits, slope = _logits(start, bias, place, inside, scale, softcap, BIASED, CAPPED, SCALED)
        power = tl.exp(logits - base)
        part += power
        if KEEP:
            if CAPPED or SCALED:
                power *= slope
            tl.store(start + place, power.to(raw.dtype.element_ty), mask=inside)
    factor = tl.exp(before - base)
    tl.store(total + row, tl.load(total + row) * factor + tl.sum(part, 0))
    tl.store(largest + row, now)
    tl.store(shrink + row, factor)
    tl.store(target + row, tl.sum(found, 0), mask=(wanted >= 0) & (wanted < words))


@triton.jit
def _tile_gradient(
    raw, bias, targets, log_sum, grad, words, first, scale, softcap,
    BIASED: tl.constexpr, CAPPED: tl.constexpr, SCALED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    start = raw + row.to(tl.int64) * words
    column = tl.arange(0, BLOCK)
    wanted = tl.load(targets + row) - first
    base = tl.load(log_sum + row)
    factor = tl.load(grad + row).to(tl.float32)
    for block in range(0, words, BLOCK):
        place = block + column
        inside = place < words
        logits, slope = _logits(start, bias, place, inside, scale, softcap, BIASED, CAPPED, SCALED)
        steep = (tl.where(place == wanted, 1.0, 0.0) - tl.exp(logits - base)) * factor
        if CAPPED or SCALED:
            steep *= slope
        tl.store(start + place, steep.to(raw.dtype.element_ty), mask=inside)
