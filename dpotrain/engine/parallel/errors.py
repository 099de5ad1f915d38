"""Errors of a process that come of another one's failure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dpotrain.core.errors import ProcessLostError, RunError, RunStopped
from dpotrain.engine.parallel.protocol import Parallel

#: Seconds in which a failure that another process tells of is known here.
_TOLD_SECONDS = 3.0


class OutOfMemoryElsewhereError(RunError):
    """Another rank of the run is out of memory."""

    def __init__(self) -> None:
        super().__init__("another process of this run is out of memory; its message says what to do.")


@contextmanager
def distributed_errors(parallel: Parallel) -> Iterator[None]:
    """Raise another process's error in place of what this one raises because of it."""
    try:
        yield
    except (RuntimeError, OutOfMemoryElsewhereError, RunStopped) as error:
        # A launcher ends the other processes by a signal, after a failed one has told them why.
        seconds = 0.0 if isinstance(error, RunStopped) else _TOLD_SECONDS
        if isinstance(error, RuntimeError) and not of_a_backend(error):
            raise
        failure = parallel.failure(seconds)
        if failure is not None:
            raise failure.error() from error
        if not isinstance(error, RuntimeError):
            raise
        raise ProcessLostError(
            "another process of this run has ended; its last message, or its launcher's, says why.\n"
            "--resume continues from the last checkpoint."
        ) from error


def of_a_backend(error: RuntimeError) -> bool:
    """Whether an error is one of torch's connections between processes."""
    import torch.distributed

    # Gloo has no class of its own for it.
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)
