"""What a person is told where a file of the run cannot be written: the file, the system's reason, what to do."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dpotrain.core.errors import RunError

#: How libraries written in Rust (safetensors, tokenizers) name the system's error, as text and as a structure.
_RUST = re.compile(r"\(os error (\d+)\)|\bOs \{ code: (\d+)")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says about writing ``path`` into a RunError."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"cannot write {path}: {error.strerror or error}.\n"
            "Make room or mend the permissions; --resume then goes on from the last checkpoint."
        ) from error


def system_error(error: BaseException) -> str | None:
    """Return what the system said, in its words, where ``error`` is a file that could not be written; None elsewhere.

    Python raises an OSError; libraries written in Rust raise exceptions of their own.
    """
    if isinstance(error, OSError):
        return error.strerror or str(error)
    found = _RUST.search(str(error))
    return None if found is None else os.strerror(int(found[1] or found[2]))
