"""What a recipe says of several devices, and whether its weights can be sharded."""

from __future__ import annotations

from dpotrain.engine.memory.choice import Wanted
from dpotrain.engine.memory.shares import Share
from dpotrain.recipe.recipe import Recipe
from dpotrain.recipe.sharding import sharding_fault


def wanted_of(recipe: Recipe) -> Wanted:
    """Return ``[parallel]`` of a recipe."""
    parallel = recipe.parallel
    return Wanted(parallel.shard, parallel.group, parallel.context, parallel.offload == "cpu")


def cannot_shard(recipe: Recipe, policy: Share) -> str:
    """Return why sharded weights of a recipe, whose policy is known, cannot be trained; "" where they can."""
    if (fault := sharding_fault(recipe, recipe.reference.quantizer)) is not None:
        return fault[1]
    if all(each.layer is None for each in policy.matrices):
        return "the model does not declare its decoder layers"
    return ""
