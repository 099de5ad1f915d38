"""The other processes of a run, seen by one that waits for them in vain."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dpotrain.core.errors import RunError


@contextmanager
def waiting_for_others() -> Iterator[None]:
    """Turn what a backend says where another process of the run has ended into a RunError."""
    import torch.distributed

    try:
        yield
    except RuntimeError as error:
        # Gloo has no class of its own for it.
        if not isinstance(error, torch.distributed.DistError) and "gloo" not in str(error):
            raise
        raise RunError(
            "another process of this run has ended; what it said last, or its launcher, tells why.\n"
            "--resume goes on from the last checkpoint."
        ) from error
