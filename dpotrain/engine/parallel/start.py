"""Which implementation a process gets, by how it was launched."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from dpotrain.core.errors import ProcessLostError
from dpotrain.engine.parallel.accelerate_config import refuse_engines
from dpotrain.engine.parallel.context import check_groups
from dpotrain.engine.parallel.errors import of_a_backend
from dpotrain.engine.parallel.one_process import OneProcess
from dpotrain.engine.parallel.protocol import Parallel

#: Where launchers say how many processes there are: torchrun and accelerate, then MPI's.
_WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def start(context: int = 1, shards: int | None = None, document: Mapping[str, Any] | None = None) -> Parallel:
    """Return the processes of this run, joined.

    ``context`` is how many of them share the rows of a data rank; ``shards`` how many will hold one copy of the
    weights, if the recipe says so; ``document`` is the resolved recipe.

    Raises:
        ProcessLostError: the processes do not reach each other.
        RecipeError: the launcher asks for an engine that is not used here, the processes have different recipes, or
            ``context`` or ``shards`` does not divide them.
    """
    refuse_engines(os.environ)
    sizes = (os.environ.get(name, "") for name in _WORLD_SIZES)
    several = any(size.isdecimal() and int(size) > 1 for size in sizes)
    if not several:
        check_groups(context, shards, 1)
        return OneProcess()
    from dpotrain.engine.parallel.replicated import Replicated

    try:
        return Replicated(context, shards, document)
    except RuntimeError as error:
        if not of_a_backend(error):
            raise
        raise ProcessLostError(
            f"the processes of this run do not reach each other ({str(error).splitlines()[0]}).\n"
            "One of them may have ended. On several machines, GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name the "
            "network interface that joins them."
        ) from error
