"""How much memory a device has free, how much this process holds, and giving unused memory back."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

#: Where Linux reports the memory that a process may use: of the machine, and of its container (cgroups 2 and 1).
_MEMINFO = Path("/proc/meminfo")
_CGROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)
#: See :func:`map_large_tensors`; the number that glibc's malloc.h gives the setting.
MAPPED_BYTES = 1 << 20
_M_MMAP_THRESHOLD = -3
#: See :func:`keep_few_compiled_products`: the environment variables of oneDNN and of torch's own layer over it.
_PRODUCT_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
#: Where people say how CUDA's allocator works; then nothing is changed.
_ALLOCATOR_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
_EXPANDABLE, _FIXED = "expandable_segments:True", "expandable_segments:False"
#: Bytes of the allocation that tries out a setting: enough for a segment of its own.
_TRIAL_BYTES = 1 << 22
#: Share of a machine's memory that is assumed to be free where the system does not report it (macOS).
_USUALLY_FREE = 0.5


def free_memory(device: torch.device) -> int:
    """Return the bytes that can still be allocated, those that torch keeps for reuse included."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    kilobytes = _number(_MEMINFO, ("MemAvailable:",))
    machine = int(_USUALLY_FREE * _installed()) if kilobytes is None else kilobytes * 1024
    return max(0, min([machine, *(limit - used for limit, used in _container_limits())]))


def resident_memory() -> int | None:
    """Return the bytes of this process that are in memory now, or None where the system does not report it."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def memory_in_use(device: torch.device) -> int | None:
    """Return the bytes in use: allocated on a CUDA device, resident on a CPU (None where that is not reported)."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else resident_memory()


def release_memory() -> None:
    """Return unused memory to the system: after a phase of the run, or after a pass that ran out of memory.

    Call it when nothing refers to the tensors any more, so after the exception that holds them is gone.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if (library := _glibc()) is not None:
        library.malloc_trim(0)


def map_large_tensors() -> None:
    """Have tensors on the CPU from :data:`MAPPED_BYTES` on be mapped each by itself, from now on.

    Otherwise glibc does so from 32 MB on, and what stays of a long row keeps it from returning the freed tensors around
    it: about as much again as is kept. The system clears the pages of every mapped tensor, which takes time.
    """
    if (library := _glibc()) is not None:
        library.mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES)


def keep_few_compiled_products(device: torch.device, longest: int) -> None:
    """Have a CPU keep the code of fewer matrix products in 16 bits, in this process; call it before its first product.

    oneDNN compiles each shape of a product, which takes half a millisecond, and keeps the last 1,024, some 0.4 MB each,
    though rows of another length have other shapes. Enough are kept for all layers of a row: its attention has one for
    about every 9 tokens of the ``longest`` completion with its prompt. Nothing is changed where the person set the
    environment variable.
    """
    if device.type == "cpu":
        for name in _PRODUCT_CACHES:
            os.environ.setdefault(name, str(min(1024, 64 + longest // 8)))


def use_expandable_segments(device: torch.device) -> None:
    """Have CUDA's allocator extend its segments in place, in this process and in those that it starts from now on.

    Micro-batches differ in size, and of segments of fixed sizes the gaps between tensors add up to memory that no later
    tensor fits into. Nothing is changed where the person set an allocator's environment variable, nor where driver and
    platform cannot map memory this way (Windows, WSL, some virtual GPUs).
    """
    told = any(os.environ.get(name) for name in _ALLOCATOR_SETTINGS)
    if device.type != "cuda" or told or not sys.platform.startswith("linux"):
        return
    torch._C._accelerator_setAllocatorSettings(_EXPANDABLE)
    try:
        torch.empty(_TRIAL_BYTES, dtype=torch.uint8, device=device)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # of the driver
        torch._C._accelerator_setAllocatorSettings(_FIXED)
    else:
        os.environ[_ALLOCATOR_SETTINGS[0]] = _EXPANDABLE


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None  # others have neither function


def _number(file: Path, names: Sequence[str]) -> int | None:
    """Return the number after one of these names in a file of a name and a number a line; None without one."""
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.split(" ")[0] in names), None)


def _installed() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _container_limits() -> list[tuple[int, int]]:
    """Return (limit, in use) of each container around this process that has a limit.

    Cached files count as in use, but are dropped on demand, so they are subtracted.
    """
    found = []
    for limit_file, used_file in _CGROUPS:
        try:
            limit = int(limit_file.read_text(encoding="ascii"))
            used = int(used_file.read_text(encoding="ascii"))
        except (OSError, ValueError):  # "max" is no limit
            continue
        cached = _number(limit_file.parent / "memory.stat", ("inactive_file", "total_inactive_file")) or 0
        found.append((limit, max(0, used - cached)))
    return found
