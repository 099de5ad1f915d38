"""What a recipe says of several devices, and whether its weights can be sharded."""

from __future__ import annotations

from dpotrain.engine.memory.choice import Wanted
from dpotrain.engine.memory.shares import Share
from dpotrain.recipe.recipe import Recipe


def wanted_of(recipe: Recipe) -> Wanted:
    """Return ``[parallel]`` of a recipe."""
    table = getattr(recipe, "parallel", None)
    if table is None:
        return Wanted()
    return Wanted(table.shard, table.group, getattr(table, "context", 1), table.offload == "cpu")


def cannot_shard(recipe: Recipe, policy: Share) -> str:
    """Return why sharded weights of a recipe, whose policy is known, cannot be trained; "" where they can."""
    for key, quantizer in (
        ("quantizer", recipe.quantizer),
        ("reference.quantizer", recipe.reference.quantizer),
    ):
        if quantizer is not None:
            return f'weights in the format of "{quantizer.name}" cannot be sharded ({key})'
    if recipe.trains_in_place and not recipe.optimizer.elementwise:
        return f'the optimizer "{recipe.optimizer.name}" needs whole matrices, "adamw" does not'
    if all(each.layer is None for each in policy.matrices):
        return "the model does not declare its decoder layers"
    return ""
