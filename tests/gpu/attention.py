"""Stage 1: attention over segments by the variable-length kernel, against matrix products in float32."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import torch

from dpotrain.data.batches.packing import PairLengths
from dpotrain.engine.attention import blockwise, varlen
from dpotrain.engine.attention.blockwise import Shape
from dpotrain.engine.attention.segments import Segments
from tests.benchmarks.flops import attended
from tests.benchmarks.hot_parts import milliseconds
from tests.gpu.report import Report

#: Largest relative error, by norm, of bfloat16 against float32.
CLOSE = 0.02
PAIRS = [PairLengths(511, 257, 1023), PairLengths(1, 140, 1), PairLengths(70, 33, 90)]
HEADS = ((32, 8), (9, 3), (8, 8))
SIZES = (64, 128, 256)
WINDOWS = (None, 24, 300)

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Segments, Shape], torch.Tensor]


def stage(report: Report) -> None:
    torch.manual_seed(0)
    attend: Attend = blockwise.attend if report.dry else varlen.attend
    pairs, heads, sizes, windows = PAIRS, HEADS, SIZES, WINDOWS
    if report.dry:
        pairs, heads, sizes, windows = PAIRS[1:], HEADS[1:], SIZES[:1], WINDOWS[:2]
    worst: dict[str, float] = dict.fromkeys(("output", "query", "key", "value"), 0.0)
    for (count, groups), size, window in itertools.product(heads, sizes, windows):
        case = f"heads {count}/{groups}, size {size}, window {window}"
        try:
            errors = compare(
                attend, pairs, count, groups, Shape(size**-0.5, None, window), size, report.device
            )
        except RuntimeError as error:
            report.fail(f"{case}: {str(error)[:300]}")
            continue
        for name, apart in errors.items():
            worst[name] = max(worst[name], apart)
            report.expect(apart < CLOSE, f"{name}, {case}: relative error {apart:.3g}")
    for name, apart in worst.items():
        report.figure(f"largest error, {name}", apart)
    if not report.dry:
        native_groups(report)
    speed(report, attend)


def native_groups(report: Report) -> None:
    """Write down whether torch's kernel takes fewer key-value heads than heads without being told."""
    from torch.nn.attention.varlen import varlen_attn

    query, key = (torch.randn(256, heads, 64, device="cuda").bfloat16() for heads in (8, 2))
    ends = torch.tensor([0, 256], device="cuda", dtype=torch.int32)
    try:
        got = varlen_attn(query, key, key, ends, ends, 256, 256, window_size=(-1, 0))
        wide = key.repeat_interleave(4, 1)
        expected = varlen_attn(query, wide, wide, ends, ends, 256, 256, window_size=(-1, 0))
    except (RuntimeError, ValueError, TypeError) as error:
        report.figure("grouped heads without enable_gqa", str(error).splitlines()[0][:100])
        return
    report.figure("grouped heads without enable_gqa, apart", _apart(got, expected.float()))


def compare(
    attend: Attend, pairs: list[PairLengths], heads: int, groups: int, shape: Shape, size: int, device: str
) -> dict[str, float]:
    """Return relative errors of the output and of the three gradients."""
    tokens = sum(pair.total for pair in pairs)
    low = [
        torch.randn(tokens, each, size, device=device).bfloat16().requires_grad_()
        for each in (heads, groups, groups)
    ]
    exact = [tensor.detach().float().requires_grad_() for tensor in low]
    if attend is varlen.attend:
        assert varlen.covers(low[0], low[2], shape)
    got = attend(*low, Segments.of(pairs), shape)
    expected = blockwise.attend(*exact, Segments.of(pairs), shape)
    slope = torch.randn_like(expected)
    mine = torch.autograd.grad(got, low, slope.bfloat16())
    theirs = torch.autograd.grad(expected, exact, slope.bfloat16().float())
    found = {"output": _apart(got, expected)}
    for name, one, other in zip(("query", "key", "value"), mine, theirs, strict=True):
        found[name] = _apart(one, other)
    return found


def _apart(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got.float() - expected).norm() / expected.norm())


def speed(report: Report, attend: Attend) -> None:
    """Time both passes over a row of 16k tokens, heads as in an 8B model."""
    pairs = [PairLengths(8, 4, 4)] if report.dry else [PairLengths(1024, 512, 512)] * 8
    heads, groups, size = (4, 2, 16) if report.dry else (32, 8, 128)
    segments, shape = Segments.of(pairs), Shape(size**-0.5, None, None)
    tokens = sum(pair.total for pair in pairs)
    inputs = [
        torch.randn(tokens, each, size, device=report.device).bfloat16().requires_grad_()
        for each in (heads, groups, groups)
    ]
    slope = torch.randn(tokens, heads, size, device=report.device).bfloat16()

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return attend(*inputs, segments, shape)

    def both() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(attend(*inputs, segments, shape), inputs, slope)

    flops = 4 * heads * size * sum(attended(pair.prompt, pair.chosen, pair.rejected) for pair in pairs)
    for name, function, times in (("forward", forward, 1.0), ("both passes", both, 3.5)):
        taken = milliseconds(partial(function), 0.05 if report.dry else 0.5)
        report.figure(f"{name} ms at {tokens} tokens", taken)
        report.figure(f"{name} TFLOP/s", times * flops / taken / 1e9)
