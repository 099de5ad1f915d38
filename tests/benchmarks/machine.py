"""What the machine is, and how fast it multiplies matrices and moves memory: the yardsticks for a step."""

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.clock import synchronize

#: Rows of the square matrices: large enough for full speed, small enough for a single core's patience.
SIZE = {"cpu": 2048, "cuda": 8192}
#: Bytes of each of the two tensors of the copy: several times any cache.
COPIED = {"cpu": 2**28, "cuda": 2**31}


def describe() -> dict[str, Any]:
    gpu = torch.cuda.is_available()
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if gpu else None,
        "cuda": torch.version.cuda if gpu else None,
        "platform": platform.platform(),
        "python": platform.python_version(),
    }


def matrix_product_rate(dtype: torch.dtype, seconds: float = 1.0, size: int | None = None) -> float:
    """Return the best FLOP/s of a square matrix product on the device that training would use."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = SIZE[device] if size is None else size
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / _fastest(lambda: left @ right, seconds)


def memory_rate(seconds: float = 1.0, size: int | None = None) -> float:
    """Return the best bytes/s of a copy from memory to memory (reads and writes counted, as the benchmark STREAM does).

    On the device that training would use.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = COPIED[device] if size is None else size
    source, target = (torch.ones(size // 4, device=device) for _ in range(2))
    return 2 * size / _fastest(lambda: target.copy_(source), seconds)


def _fastest(act: Callable[[], object], seconds: float) -> float:
    """Return the shortest duration of a call, after one that warms up."""
    act()
    best, until = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < until:
        synchronize()
        began = time.perf_counter()
        act()
        synchronize()
        best = min(best, time.perf_counter() - began)
    return best


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
