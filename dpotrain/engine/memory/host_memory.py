"""What the C library's allocator keeps of freed tensors on a CPU, where torch has no allocator of its own."""

from __future__ import annotations

import ctypes
import sys
from typing import Any


def give_freed_memory_back() -> None:
    """Give the system what is free now: for the end of a phase whose memory the next one does not ask for alike."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def _glibc() -> Any:
    """Return the C library with ``malloc_trim``, or None where it is another one."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
