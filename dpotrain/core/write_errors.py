"""Errors of files that cannot be written: the file, the system's reason, what to do."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dpotrain.core.errors import RunError

#: How libraries written in Rust (safetensors, tokenizers) name the system's error, as text and as a structure.
_RUST = re.compile(r"\(os error (\d+)\)|\bOs \{ code: (\d+)")


class WriteError(RunError):
    """A file or folder cannot be written; ``reason`` is the system's, in its words."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"cannot write {path}: {reason}.\n"
            "Free disk space or fix the permissions; --resume then continues from the last checkpoint."
        )
        self.reason = reason


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise a :class:`WriteError` that names ``path`` where the block raises an OSError."""
    try:
        yield
    except OSError as error:
        raise WriteError(path, error.strerror or str(error)) from error


def system_error(error: BaseException) -> str | None:
    """Return the system's reason, in its words, where ``error`` is a file that cannot be written; None elsewhere.

    Python raises an OSError; libraries written in Rust raise exceptions of their own.
    """
    if isinstance(error, OSError):
        return error.strerror or str(error)
    found = _RUST.search(str(error))
    return None if found is None else os.strerror(int(found[1] or found[2]))
