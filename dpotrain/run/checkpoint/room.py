"""Whether the main process has room for a checkpoint of weights that the processes share.

It gathers trained weights and optimizer state, whole, in the host's memory. A host that runs out of it kills a process,
which says nothing; so the memory is looked at first.
"""

from __future__ import annotations

import torch

from dpotrain.core.errors import RunError
from dpotrain.core.formats import megabytes
from dpotrain.engine.memory.device_memory import free_memory


def check_room(gathered: int) -> None:
    """Raise a RunError where the host has no room for so many bytes."""
    free = free_memory(torch.device("cpu"))
    if gathered > free:
        needs, has = (megabytes(each / 2**20) for each in (gathered, free))
        raise RunError(
            f"a checkpoint of sharded weights takes {needs} of the main process's host memory, where weights and "
            f"optimizer state are gathered, and {has} are free there.\n"
            "Free memory on that machine, have world rank 0 on one with more, train an [adapter], or choose an "
            "optimizer with a smaller state."
        )
