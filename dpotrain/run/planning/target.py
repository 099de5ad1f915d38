"""What a plan is for: a device with so much memory, and what a run holds there."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from dpotrain.data.batches.plan import BatchPlan, Costs
from dpotrain.data.prepare import PreparedData
from dpotrain.engine.memory.choice import USUAL_MACHINE
from dpotrain.engine.memory.device_memory import free_memory, resident_memory
from dpotrain.engine.memory.layout import Layout
from dpotrain.engine.memory.planner import MemoryPlan, plan_memory
from dpotrain.recipe.recipe import Recipe
from dpotrain.run.building.engine_builder import batch_plan
from dpotrain.run.measurements import Learned
from dpotrain.run.planning.description import Description

#: What CUDA's context and libraries take on a device, which no allocator counts.
CUDA_CONTEXT = 600 * 2**20


@dataclass(frozen=True, slots=True)
class Target:
    """A device, or each of several; sizes in bytes."""

    kind: str
    """ "cpu" or "cuda"."""
    name: str
    process: int
    """What is taken before the model is loaded."""
    available: int
    host: float = math.inf
    """What is free in the host's memory for each process; of the machine of another GPU it is not known."""
    machine: int = USUAL_MACHINE
    """Devices of a machine; processes, where each has a part of its CPU."""
    here: bool = True
    """Whether this machine has such a device."""

    def of_each(self, rate: float) -> float:
        """Return what each process has of a rate that the device of this machine reaches."""
        return rate / self.machine if self.kind == "cpu" else rate


def target_of(memory: int | None, devices: int = 1) -> Target:
    """Return a GPU with so many bytes of ``memory``; without them this machine's GPU, or a part of its CPU."""
    if memory is not None:
        return Target("cuda", "a GPU of that size", CUDA_CONTEXT, memory, here=False)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        there = torch.cuda.device_count()
        machine = min(devices, there if there > 1 else USUAL_MACHINE)
        host = free_memory(torch.device("cpu")) // machine
        return Target("cuda", torch.cuda.get_device_name(device), 0, free_memory(device), host, machine)
    process = resident_memory() or 0
    # Processes on a CPU share its memory and its cores.
    name = "this machine's CPU" + (f", for each of {devices} processes" if devices > 1 else "")
    return Target("cpu", name, process, (free_memory(device) + process) // devices, machine=devices)


def memory_of(
    recipe: Recipe,
    data: PreparedData,
    described: Description,
    target: Target,
    layout: Layout,
    learned: Learned | None = None,
) -> tuple[MemoryPlan, BatchPlan]:
    """Return what a rank of a layout holds, and the steps as they are cut; ``learned`` is what such runs measured.

    Raises:
        RunError: the recipe asks for something that the model does not support.
    """
    costs = Costs.of_data(data.train, padded=not described.packs)
    # For a lower max_length than the data was tokenized with; a pair has its prompt once and two answers. At most: with
    # truncation = "drop" the longer pairs would be left out.
    most = recipe.data.max_length
    costs = replace(costs, lengths=costs.lengths.clip(max=2 * most), longest=costs.longest.clip(max=most))
    share = described.share_in(layout)
    reference, reference_on_host = described.reference_bytes(layout)
    held = {
        "process": target.process if learned is None else int(learned.process),
        "weights": share.weights,
        "reference model": reference,
        "gathered weights": share.gathered,
    }
    planned = plan_memory(
        recipe,
        described.policy,
        share,
        share.activations(described.activations),
        costs,
        pairs=data.mixture.pairs,
        device=target.kind,
        held=held,
        available=target.available,
        host=target.host,
        held_on_host=reference_on_host,
        sharing=min(target.machine, layout.devices),
    )
    if learned is not None:
        planned = replace(planned, allocator=learned.allocator)
    return planned, batch_plan(recipe, data.mixture, costs, planned.fit.tokens, layout.data_ranks)
