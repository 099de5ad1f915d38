"""How the processes of a run share a model, from ``[parallel]``."""

from __future__ import annotations

import os

from dpotrain.core.errors import RecipeError
from dpotrain.engine.parallel.protocol import Parallel
from dpotrain.recipe.recipe import Recipe


def with_sharding(recipe: Recipe, joined: Parallel) -> Parallel:
    """Return the processes that have been joined, sharding the weights where the recipe says so. Collective.

    Raises:
        RecipeError: the recipe's groups do not divide the processes.
    """
    wanted = recipe.parallel
    # A launcher may start one process, which shards nothing, and computes as one of several does.
    launched = joined.world_size > 1 or "LOCAL_RANK" in os.environ
    if wanted.shard != "all" or not launched:
        return joined
    if wanted.group is not None and joined.world_size % wanted.group:
        raise RecipeError(
            f"parallel.group = {wanted.group}, but the run has {joined.world_size} processes, no whole number of such "
            "groups.\nSet a divisor of the number of processes, or leave the key out."
        )
    from dpotrain.engine.parallel.replicated import Replicated
    from dpotrain.engine.parallel.sharded import Sharded

    several = joined if isinstance(joined, Replicated) else Replicated()
    return Sharded(several, wanted.group, offload=wanted.offload == "cpu")
