"""What happens to one rank in the middle of its share of a step, agreed upon by all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dpotrain.engine.parallel.errors import OutOfMemoryElsewhereError
from dpotrain.engine.parallel.protocol import Parallel
from dpotrain.engine.training.unfinished import Interrupted


class RanOut(Exception):  # noqa: N818 - a step is done again
    """Memory ran out on some rank; every rank raises it. Its cause is this rank's own error, if it has one."""

    def error(self) -> BaseException:
        """Return what ends the run where nothing smaller can be tried."""
        return self.__cause__ or OutOfMemoryElsewhereError()


@contextmanager
def agreeing(parallel: Parallel) -> Iterator[None]:
    """Make an interruption of one rank, or its being out of memory, that of all at the end of the block. Collective.

    The block computes this rank's share, and nothing inside may wait for another rank. Where passes are collective, all
    does, and no rank can leave alone: then interruptions are agreed upon inside (see :meth:`.Parallel.agreed`), and
    memory that runs out ends the run.

    Raises:
        Interrupted: on some rank the person asked for an end.
        RanOut: on some rank memory ran out.
        torch.OutOfMemoryError: on this one, where passes are collective.
    """
    if parallel.collective_passes:
        yield
        return
    problem: Exception | None = None
    try:
        yield
    except (Interrupted, torch.OutOfMemoryError) as error:
        problem = error
    memory = isinstance(problem, torch.OutOfMemoryError)
    interrupted, ran_out = parallel.any(problem is not None and not memory, memory)
    if interrupted:
        raise Interrupted
    if ran_out:
        raise RanOut from problem
