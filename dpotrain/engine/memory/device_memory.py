"""How much memory a device has, and how much of it is free."""

from __future__ import annotations

import os
from pathlib import Path

import torch

#: Where Linux says how much memory a process may have: of the machine, and of its container (versions 2 and 1).
_MEMINFO = Path("/proc/meminfo")
_CGROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)
#: Share of a machine's memory that is taken to be free where the system does not say (macOS).
_USUALLY_FREE = 0.5


def free_memory(device: torch.device) -> int:
    """Return the bytes that can still be allocated, those that torch keeps for reuse included."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    available = _meminfo("MemAvailable")
    machine = int(_USUALLY_FREE * _installed()) if available is None else available
    return max(0, min([machine, *(limit - used for limit, used in _container_limits())]))


def total_memory(device: torch.device) -> int:
    """Return the bytes that the device, or this process's container, has."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    return min([_meminfo("MemTotal") or _installed(), *(limit for limit, _ in _container_limits())])


def resident_memory() -> int | None:
    """Return the bytes of this process that are in memory now, or None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _meminfo(name: str) -> int | None:
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None


def _installed() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _container_limits() -> list[tuple[int, int]]:
    """Return (limit, in use) of each container around this process that has a limit.

    Files that the system only keeps for rereading count as in use, but make room when asked.
    """
    found = []
    for limit_file, used_file in _CGROUPS:
        try:
            limit = int(limit_file.read_text(encoding="ascii"))
            used = int(used_file.read_text(encoding="ascii"))
        except (OSError, ValueError):  # "max" is no limit
            continue
        found.append((limit, max(0, used - _rereadable(limit_file.parent / "memory.stat"))))
    return found


def _rereadable(file: Path) -> int:
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    for line in lines:
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file"):
            return int(value)
    return 0
