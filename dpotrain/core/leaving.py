"""The last thing that a process does before it ends itself, past Python's own way out."""

from __future__ import annotations

import sys
from contextlib import suppress


def flush_output() -> None:
    """Write what standard output and standard error still hold: ``os._exit`` does not."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
