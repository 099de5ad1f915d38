"""How the processes of a run hold its weights: as ``[parallel]`` says, or as they fit."""

from __future__ import annotations

import os
from functools import cache

import torch

from dpotrain.data.prepare import PreparedData
from dpotrain.engine.memory.choice import Choice, Need, choose_layout
from dpotrain.engine.memory.device_memory import free_memory
from dpotrain.engine.memory.layout import Layout
from dpotrain.engine.parallel.protocol import Parallel
from dpotrain.recipe.recipe import Recipe
from dpotrain.run.planning.description import Description, NotDescribedError, describe
from dpotrain.run.planning.target import Target, memory_of
from dpotrain.run.planning.wanted import cannot_shard, wanted_of


def layout_of_run(recipe: Recipe, parallel: Parallel, data: PreparedData) -> Choice:
    """Choose the layout that ``dpotrain plan --devices`` shows, before any weights are loaded. Collective.

    It is the same on every process, for the least memory that one of them has.

    Raises:
        RecipeError: the recipe's groups do not divide the processes.
        RunError: the adapter does not fit the model.
    """
    device, wanted = parallel.device, wanted_of(recipe)
    host = free_memory(torch.device("cpu")) // parallel.local_size
    of_all = parallel.gather_objects((free_memory(device), host, parallel.local_size))
    memory, host, machine = (min(each) for each in zip(*of_all, strict=True))
    target = Target(device.type, str(device), 0, memory, host, machine)

    @cache
    def described() -> Description:
        return describe(recipe, data, device.type)

    def need(layout: Layout) -> Need:
        return memory_of(recipe, data, described(), target, layout)[0].need

    try:
        choice = choose_layout(
            wanted,
            parallel.world_size,
            machine=machine,
            device=device.type,
            cannot_shard=lambda: cannot_shard(recipe, described().share),
            need=need,
        )
    except NotDescribedError as error:
        why = str(error).splitlines()[0]
        choice = Choice(Layout(parallel.world_size, context=wanted.context), f"weights are replicated: {why}")
    return parallel.broadcast_object(choice)


def spread(recipe: Recipe, joined: Parallel, data: PreparedData) -> tuple[Parallel, str]:
    """Return the processes in the layout of the run, and why it is that one; "" if there was no choice. Collective."""
    choice = layout_of_run(recipe, joined, data)
    return in_layout(choice.layout, recipe, joined), choice.reason


def in_layout(layout: Layout, recipe: Recipe, joined: Parallel) -> Parallel:
    """Return the processes that have been joined, sharding the weights where the layout does. Collective."""
    shards = layout.shards
    # A launcher may start one process, which has all weights, and computes as one of several does.
    if joined.world_size == 1 and recipe.parallel.shard == "all" and "LOCAL_RANK" in os.environ:
        shards = 1
    if shards is None:
        return joined
    from dpotrain.engine.parallel.replicated import Replicated
    from dpotrain.engine.sharding.sharded import Sharded

    several = joined if isinstance(joined, Replicated) else Replicated()
    return Sharded(several, shards, offload=layout.offload)
