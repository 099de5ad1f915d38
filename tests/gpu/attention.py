"""Stage 1: attention over segments by variable-length kernels, against matrix products in float32."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch

from dpotrain.data.batches.segments import PairLengths, Segments
from dpotrain.engine.attention import blockwise, varlen
from dpotrain.engine.attention.blockwise import Shape
from dpotrain.engine.attention.varlen import Attend
from tests.benchmarks.flops import attended
from tests.benchmarks.hot_parts import milliseconds
from tests.gpu.report import Report

#: Largest relative error, by norm, of each dtype against float32.
CLOSE = {torch.bfloat16: 0.02, torch.float32: 1e-4}
PAIRS = [PairLengths(511, 257, 1023), PairLengths(1, 140, 1), PairLengths(70, 33, 90)]
HEADS = ((32, 8), (9, 3), (8, 8))
SIZES = (64, 128, 256)
WINDOWS = (None, 24, 300)
#: Head sizes and dtypes that the flash kernel does not take.
OTHERS = ((64, torch.float32), (128, torch.float32), (320, torch.bfloat16))


def stage(report: Report) -> None:
    torch.manual_seed(0)
    flash: Attend = blockwise.attend if report.dry else varlen.torch_flash
    other: Attend = blockwise.attend if report.dry else varlen.memory_efficient
    pairs, heads, sizes, windows, others = PAIRS, HEADS, SIZES, WINDOWS, OTHERS
    if report.dry:
        pairs, heads, sizes, windows, others = PAIRS[1:], HEADS[1:], SIZES[:1], WINDOWS[:2], OTHERS[:1]
    cases = [(flash, size, torch.bfloat16, window) for size, window in itertools.product(sizes, windows)]
    cases += [(other, size, dtype, None) for size, dtype in others]
    worst: dict[str, float] = {}
    for (count, groups), (attend, size, dtype, window) in itertools.product(heads, cases):
        kind = str(dtype).removeprefix("torch.")
        case = f"heads {count}/{groups}, size {size}, {kind}, window {window}"
        shape = Shape(size**-0.5, None, window)
        try:
            errors = compare(attend, pairs, count, groups, shape, size, dtype, report.device)
        except RuntimeError as error:
            report.fail(f"{case}: {str(error)[:300]}")
            continue
        for name, apart in errors.items():
            worst[f"{name}, {kind}"] = max(worst.get(f"{name}, {kind}", 0.0), apart)
            report.expect(apart < CLOSE[dtype], f"{name}, {case}: relative error {apart:.3g}")
    for name, apart in worst.items():
        report.figure(f"largest error, {name}", apart)
    speed(report, flash)


def compare(
    attend: Attend,
    pairs: list[PairLengths],
    heads: int,
    groups: int,
    shape: Shape,
    size: int,
    dtype: torch.dtype,
    device: str,
) -> dict[str, float]:
    """Return relative errors of the output and of the three gradients."""
    tokens = sum(pair.total for pair in pairs)
    low = [
        torch.randn(tokens, each, size, device=device).to(dtype).requires_grad_()
        for each in (heads, groups, groups)
    ]
    segments = Segments.of(pairs).to(torch.device(device))
    exact = [tensor.detach().float().requires_grad_() for tensor in low]
    assert varlen.choose(low[0], low[2], segments, shape) in (attend, None)
    got, expected = attend(*low, segments, shape), blockwise.attend(*exact, segments, shape)
    slope = torch.randn_like(expected)
    mine = torch.autograd.grad(got, low, slope.to(dtype))
    theirs = torch.autograd.grad(expected, exact, slope.to(dtype).float())
    found = {"output": _apart(got, expected)}
    for name, one, other in zip(("query", "key", "value"), mine, theirs, strict=True):
        found[name] = _apart(one, other)
    return found


def _apart(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got.float() - expected).norm() / expected.norm())


def speed(report: Report, flash: Attend) -> None:
    """Time both passes over a row of 16k tokens: heads as in Llama 3 8B, then heads and soft caps as in Gemma 2 2B."""
    cases = {"flash": (flash, (32, 8, 128), None), "soft caps": (blockwise.attend, (8, 4, 256), 50.0)}
    pairs = [PairLengths(8, 4, 4)] if report.dry else [PairLengths(1024, 512, 512)] * 8
    seen = sum(attended(pair.prompt, pair.chosen, pair.rejected) for pair in pairs)
    for name, (attend, heads, softcap) in cases.items():
        flops = 4 * heads[0] * heads[2] * seen
        for passes, taken, times in _times(report, attend, pairs, heads, softcap):
            report.figure(f"{name}, {passes} ms at {sum(pair.total for pair in pairs)} tokens", taken)
            report.figure(f"{name}, {passes} TFLOP/s", times * flops / taken / 1e9)


def _times(
    report: Report,
    attend: Attend,
    pairs: list[PairLengths],
    heads: tuple[int, int, int],
    softcap: float | None,
) -> Iterator[tuple[str, float, float]]:
    """Yield what ran, its milliseconds, and its operations over those of a forward pass.

    ``heads`` are their number, that of key-value heads, and their size.
    """
    count, groups, size = heads
    shape = Shape(size**-0.5, softcap, None)
    segments = Segments.of(pairs).to(torch.device(report.device))
    tokens = sum(pair.total for pair in pairs)
    inputs = [
        torch.randn(tokens, each, size, device=report.device).bfloat16().requires_grad_()
        for each in (count, groups, groups)
    ]
    slope = torch.randn(tokens, count, size, device=report.device).bfloat16()

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return attend(*inputs, segments, shape)

    def both() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(attend(*inputs, segments, shape), inputs, slope)

    seconds = 0.05 if report.dry else 0.5
    yield "forward", milliseconds(forward, seconds), 1.0
    yield "both passes", milliseconds(both, seconds), 3.5
