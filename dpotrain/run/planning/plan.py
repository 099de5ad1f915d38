"""``dpotrain plan``: memory, time and disk space of a run, without loading its weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch

from dpotrain.core.paths import cache_folder
from dpotrain.data.batches.plan import BatchPlan, Costs
from dpotrain.data.prepare import PreparedData
from dpotrain.engine.memory.device_memory import free_memory, resident_memory
from dpotrain.engine.memory.planner import MemoryPlan, microbatch_tokens, plan_memory
from dpotrain.engine.threads import choose_threads, restoring_threads
from dpotrain.recipe.recipe import Recipe
from dpotrain.run.building.engine_builder import batch_plan
from dpotrain.run.folder.run_folder import RunFolder
from dpotrain.run.measurements import Learned, device_name, key_of, look_up
from dpotrain.run.planning.changes import GIGABYTE, Changes, SmallestGpus, changes_that_fit, smallest_gpus
from dpotrain.run.planning.description import Description, describe
from dpotrain.run.planning.disk import disk_space
from dpotrain.run.planning.duration import Duration, duration_of
from dpotrain.run.planning.remedies import Remedy, find_remedies
from dpotrain.run.speed import first_passes

#: What CUDA's context and libraries take on a device, which no allocator counts.
CUDA_CONTEXT = 600 * 2**20

#: Reads the recipe again, with these overrides besides its own; a RecipeError where they do not go together.
Reload: TypeAlias = Callable[[Sequence[str]], Recipe]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would take; sizes in bytes, times in seconds."""

    device: str
    memory: int
    """What the device has for the run."""
    parts: Mapping[str, int]
    """What the run needs at its peak, by part."""
    fits: bool
    packed: bool
    tokens_per_microbatch: int
    limit: str
    """What keeps micro-batches from being larger: "memory", "speed" (more would be no faster) or "recipe"."""
    longest_pair: int
    """Tokens of the longest pair, which is never split."""
    checkpointed_layers: int
    layers: int
    parameters: int
    trained_parameters: int
    pairs: int
    """Of an epoch."""
    steps: int
    pairs_per_step: int
    microbatches_per_step: float
    first_passes: float
    """Share of the steps whose pairs are scored once more, before there are gradients."""
    tokens_per_second: float | None
    """None for a device that is not in this machine."""
    seconds: float | None
    """The whole run, but for loading where no run has measured it."""
    duration: Duration | None
    """The same by part."""
    measured_runs: int
    """Runs of this model on this device whose measurements are used; 0: speed and memory are estimated."""
    disk: Mapping[str, int]
    """What the run leaves in its folder and in the cache."""
    disk_free: int
    """Of the disk of the run folder."""
    remedies: tuple[Remedy, ...]
    """What each change saves by itself, in the order in which to try."""
    changes: Changes | None
    """The fewest changes with which the run fits; None where it does, or no set is enough."""
    gpus: SmallestGpus | None
    """Which common sizes of GPUs would do; None where that was not asked for."""
    finished_run: Mapping[str, float] | None
    """``plan`` in the summary.json of the run that finished in the recipe's folder."""

    @property
    def needed(self) -> int:
        """Bytes at the peak."""
        return sum(self.parts.values())

    @property
    def fits_disk(self) -> bool:
        """Whether the disk has room for what the run leaves."""
        return sum(self.disk.values()) <= self.disk_free

    def as_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {**asdict(self), "needed": self.needed, "fits_disk": self.fits_disk}


@dataclass(frozen=True, slots=True)
class _Target:
    """What a plan is for."""

    kind: str
    """ "cpu" or "cuda"."""
    name: str
    process: int
    """Bytes taken before the model is loaded."""
    available: int


def make_plan(
    recipe: Recipe, data: PreparedData, memory: int | None = None, reload: Reload | None = None
) -> Plan:
    """Plan a recipe for this machine's device, or for a GPU with so many bytes of ``memory``.

    With ``reload``, changes with which it fits and sizes of GPUs are looked for, too.

    Raises:
        RunError: the loader cannot describe its model, or the adapter does not fit the model.
    """
    target = _target(memory)
    described = describe(recipe, data, target.kind)
    with restoring_threads():
        if memory is None:
            choose_threads(described.policy, torch.device(target.kind))
        learned = None if memory is not None else _learned(recipe, described, target.kind)
        planned, batches = _memory(recipe, data, described, target, learned)
        fit, parts = planned.fit, planned.parts(batches)
        lasting = None
        if memory is None:
            lasting = duration_of(recipe, data, described, batches, fit, target.kind, learned)
    fits = sum(parts.values()) <= target.available
    changes = gpus = None
    if reload is not None:
        search = _Search(recipe, data, reload, {((), target.kind): (recipe, described)})
        if not fits:
            changes = changes_that_fit(recipe, described, lambda more: search.fits(more, target))
        gpus = smallest_gpus(recipe, described, search.fits_gpu)
    microbatches = microbatch_tokens(batches)
    before = RunFolder(recipe.run.output_dir).summary_of_finished() or {}
    return Plan(
        device=target.name,
        memory=target.available,
        parts=parts,
        fits=fits,
        packed=described.packs,
        tokens_per_microbatch=fit.tokens,
        limit=fit.limit,
        longest_pair=batches.costs.longest_pair,
        checkpointed_layers=fit.checkpointed,
        layers=fit.layers,
        parameters=described.size.parameters,
        trained_parameters=described.size.trained_parameters,
        pairs=data.mixture.pairs,
        steps=batches.total_steps,
        pairs_per_step=recipe.training.pairs_per_step,
        microbatches_per_step=sum(map(len, microbatches)) / len(microbatches),
        first_passes=first_passes(recipe, described.policy, batches),
        tokens_per_second=None if lasting is None else lasting.tokens_per_second,
        seconds=None if lasting is None else lasting.total,
        duration=lasting,
        measured_runs=0 if learned is None else learned.runs,
        disk=disk_space(recipe, data, described.size, batches),
        disk_free=shutil.disk_usage(_existing(recipe.run.output_dir)).free,
        remedies=tuple(find_remedies(recipe, described.size, planned, batches)),
        changes=changes,
        gpus=gpus,
        finished_run=before.get("plan") or None,
    )


@dataclass(slots=True)
class _Search:
    """Whether the recipe fits with changes. What is counted is kept: models by adapter and quantizer."""

    recipe: Recipe
    data: PreparedData
    reload: Reload
    described: dict[tuple[tuple[str, ...], str], tuple[Recipe, Description]]

    def fits(self, changes: Sequence[str], target: _Target) -> bool:
        """Return whether the run fits with these overrides; raises as ``reload`` and :func:`describe` do."""
        recipe = self.reload(changes) if changes else self.recipe
        model = tuple(change for change in changes if change.startswith(("adapter", "quantizer")))
        if (model, target.kind) not in self.described:
            self.described[model, target.kind] = recipe, describe(recipe, self.data, target.kind)
        described = self.described[model, target.kind][1]
        planned, batches = _memory(recipe, self.data, described, target, None)
        return sum(planned.parts(batches).values()) <= target.available

    def fits_gpu(self, changes: Sequence[str], gigabytes: int) -> bool:
        """Return the same for a GPU of that size."""
        return self.fits(changes, _target(gigabytes * GIGABYTE))


def _target(memory: int | None) -> _Target:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if memory is not None:
        return _Target("cuda", "a GPU of that size", CUDA_CONTEXT, memory)
    if device.type == "cuda":
        return _Target("cuda", torch.cuda.get_device_name(device), 0, free_memory(device))
    process = resident_memory() or 0
    return _Target("cpu", "this machine's CPU", process, free_memory(device) + process)


def _memory(
    recipe: Recipe, data: PreparedData, described: Description, target: _Target, learned: Learned | None
) -> tuple[MemoryPlan, BatchPlan]:
    """Return what is held, and the steps as they are cut."""
    costs = Costs.of_data(data.train, padded=not described.packs)
    # For a lower max_length than the data was tokenized with; a pair has its prompt once and two answers. At most: with
    # truncation = "drop" the longer pairs would be left out.
    most = recipe.data.max_length
    costs = replace(costs, lengths=costs.lengths.clip(max=2 * most), longest=costs.longest.clip(max=most))
    held = {
        "process": target.process if learned is None else int(learned.process),
        "weights": described.size.bytes,
        "reference model": described.reference_bytes,
    }
    planned = plan_memory(
        recipe,
        described.policy,
        described.size,
        described.activations,
        costs,
        pairs=data.mixture.pairs,
        device=target.kind,
        held=held,
        available=target.available,
    )
    if learned is not None:
        planned = replace(planned, allocator=learned.allocator)
    return planned, batch_plan(recipe, data.mixture, costs, planned.fit.tokens)


def _learned(recipe: Recipe, described: Description, kind: str) -> Learned | None:
    """Return what runs of this model on this device measured."""
    key = key_of(
        recipe,
        described.size,
        device=device_name(torch.device(kind)),
        precision=described.precision,
        packed=described.packs,
    )
    return look_up(cache_folder(recipe.run.cache_dir), key)


def _existing(path: Path) -> Path:
    """Return the nearest folder that is there already."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())
