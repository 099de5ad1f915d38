"""Stage 0: what this machine has, and how fast it multiplies."""

from __future__ import annotations

import importlib.metadata
import inspect
import platform

import torch

from tests.benchmarks.machine import matrix_product_rate
from tests.gpu.report import Report

PACKAGES = ("torch", "triton", "transformers", "accelerate", "peft", "bitsandbytes", "datasets", "pydantic")
#: Dense bfloat16 FLOP/s from the makers' data sheets, which an MFU is a share of.
PEAKS = {"B200": 2250e12, "H200": 989e12, "H100": 989e12, "H800": 989e12, "A100": 312e12, "L40S": 362e12}
#: Share of it that a large matrix product reaches on a device in good order.
REACHED = 0.71


def peak_flops() -> float | None:
    """Return this device's bfloat16 peak; None for one that is not known."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((peak for known, peak in PEAKS.items() if known in name), None)


def stage(report: Report) -> None:
    report.figure("python", platform.python_version())
    for package in PACKAGES:
        try:
            report.figure(package, importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            report.figure(package, None)
    report.figure("cuda", torch.version.cuda)
    if not report.dry:
        report.figure("device", torch.cuda.get_device_name())
        report.figure("memory GiB", torch.cuda.get_device_properties(0).total_memory / 2**30)
        from torch.nn.attention.varlen import varlen_attn

        report.figure("varlen_attn", ", ".join(inspect.signature(varlen_attn).parameters))
    size = 256 if report.dry else 8192
    rate = matrix_product_rate(torch.bfloat16, seconds=0.1 if report.dry else 1.0, size=size)
    report.figure(f"bf16 TFLOP/s at {size}³", rate / 1e12)
    peak = peak_flops()
    if peak is not None:
        report.expect(
            rate >= REACHED * peak, f"a product reaches {rate / 1e12:.0f} of {peak / 1e12:.0f} TFLOP/s"
        )
