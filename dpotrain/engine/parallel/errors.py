"""Errors of a process that waits for another one that has ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dpotrain.core.errors import RunError


@contextmanager
def distributed_errors() -> Iterator[None]:
    """Turn a backend's error about another process of the run that has ended into a RunError."""
    import torch.distributed

    try:
        yield
    except RuntimeError as error:
        # Gloo has no class of its own for it.
        if not isinstance(error, torch.distributed.DistError) and "gloo" not in str(error):
            raise
        raise RunError(
            "another process of this run has ended; its last message, or its launcher's, says why.\n"
            "--resume continues from the last checkpoint."
        ) from error
