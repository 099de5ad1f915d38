"""``dpotrain plan``: memory, time and disk space of a run, without loading its weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from dpotrain.data.prepare import PreparedData
from dpotrain.engine.memory.layout import ONE_DEVICE
from dpotrain.engine.memory.planner import microbatch_tokens
from dpotrain.engine.threads import choose_threads, restoring_threads
from dpotrain.recipe.recipe import Recipe
from dpotrain.run.folder.run_folder import RunFolder
from dpotrain.run.planning.changes import GIGABYTE, Changes, SmallestGpus, changes_that_fit, smallest_gpus
from dpotrain.run.planning.description import Description, describe
from dpotrain.run.planning.devices import ASSUMED, ONE, Asked, Devices, devices_of, links_of
from dpotrain.run.planning.disk import disk_space
from dpotrain.run.planning.duration import Duration, duration_of
from dpotrain.run.planning.layouts import Layouts
from dpotrain.run.planning.remedies import Remedy, find_remedies
from dpotrain.run.planning.target import Target, target_of
from dpotrain.run.speed import first_passes, sustained_rate

#: Reads the recipe again, with these overrides besides its own; a RecipeError where they do not go together.
Reload: TypeAlias = Callable[[Sequence[str]], Recipe]
SpeedSource: TypeAlias = Literal["measured", "estimated", "given", "assumed"]


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
    tile_tokens: int
    """Tokens of the tiles in which norms and feed-forward blocks compute longer rows; 0 without."""
    host_memory: int
    """Bytes of the host's memory that each process needs for what its device does not hold; 0 without."""
    gathered: int
    """Bytes of the host's memory in which the main process gathers each checkpoint of sharded weights; 0 without."""
    parameters: int
    trained_parameters: int
    pairs: int
    """Of an epoch."""
    steps: int
    pairs_per_step: int
    microbatches_per_step: float
    """Of each data rank."""
    first_passes: float
    """Share of the tokens that are scored once more, before there are gradients."""
    tokens_per_second: float | None
    """None for a device that is not in this machine."""
    seconds: float | None
    """The whole run, but for loading where no run has measured it."""
    duration: Duration | None
    """The same by part."""
    operations: float | None
    """Floating-point operations a second of one device, from which the speed is computed unless runs measured it."""
    speed_from: SpeedSource
    """Where they are from: runs on one such device, a matrix product, the command line, or what is usual."""
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
    devices: Devices | None
    """How the run is spread over several devices, and what else is possible; None for one."""

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


def make_plan(
    recipe: Recipe,
    data: PreparedData,
    memory: int | None = None,
    reload: Reload | None = None,
    asked: Asked = ONE,
) -> Plan:
    """Plan a recipe for this machine's device, or for a GPU with so many bytes of ``memory``; or for several of them.

    With ``reload``, changes with which it fits and sizes of GPUs are looked for, too.

    Raises:
        RunError: the loader cannot describe its model, or the adapter does not fit the model.
        RecipeError: the devices cannot be divided as the recipe says.
    """
    target = target_of(memory, asked.devices)
    described = describe(recipe, data, target.kind)
    with restoring_threads():
        if target.here:
            choose_threads(described.policy, torch.device(target.kind))
        layouts = Layouts(recipe, data, described, target, asked.devices, links_of(asked, target), None)
        operations, source = _operations(layouts, asked)
        layouts = replace(layouts, operations=operations)
        layout = layouts.choose().layout
        learned = layouts.learned(layout)
        planned, batches = layouts.memory(layout)
        fit, parts = planned.fit, planned.parts(batches)
        lasting = None
        # What does not fit takes no time that could be told.
        if planned.fits(batches) and (rate := layouts.rate(planned, batches)) is not None:
            loading = None if learned is None else learned.loading
            lasting = duration_of(recipe, data, described, batches, fit, target.kind, rate, loading)
        devices = devices_of(layouts) if asked.devices > 1 else None
    fits = planned.fits(batches)
    changes = gpus = None
    if reload is not None:
        search = _Search(recipe, data, reload, asked, {((), target.kind): (recipe, described)})
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
        tile_tokens=fit.tile,
        host_memory=planned.host_bytes(batches),
        gathered=planned.gathered,
        parameters=described.size.parameters,
        trained_parameters=described.size.trained_parameters,
        pairs=data.mixture.pairs,
        steps=batches.total_steps,
        pairs_per_step=recipe.training.pairs_per_step,
        microbatches_per_step=sum(map(len, microbatches)) / len(microbatches) / batches.ranks,
        first_passes=first_passes(recipe, described.policy, batches),
        tokens_per_second=None if lasting is None else lasting.tokens_per_second,
        seconds=None if lasting is None else lasting.total,
        duration=lasting,
        operations=operations,
        speed_from=source,
        measured_runs=0 if learned is None else learned.runs,
        disk=disk_space(recipe, data, described.size, batches),
        disk_free=shutil.disk_usage(_existing(recipe.run.output_dir)).free,
        remedies=tuple(find_remedies(recipe, planned, batches, target.kind)),
        changes=changes,
        gpus=gpus,
        finished_run=before.get("plan") or None,
        devices=devices,
    )


def _operations(layouts: Layouts, asked: Asked) -> tuple[float | None, SpeedSource]:
    """Return the floating-point operations a second of one device, if they are known, and where they are from."""
    precision = layouts.described.precision
    if asked.operations is not None:
        return asked.operations, "given"
    if (learned := layouts.learned(ONE_DEVICE)) is not None:
        return layouts.target.of_each(learned.rate), "measured"
    if layouts.target.here:
        rate = sustained_rate(torch.device(layouts.target.kind), precision)
        return layouts.target.of_each(rate), "estimated"
    return (ASSUMED[precision] if asked.devices > 1 else None), "assumed"


@dataclass(slots=True)
class _Search:
    """Whether the recipe fits with changes. What is counted is kept: models by adapter and quantizer."""

    recipe: Recipe
    data: PreparedData
    reload: Reload
    asked: Asked
    described: dict[tuple[tuple[str, ...], str], tuple[Recipe, Description]]

    def fits(self, changes: Sequence[str], target: Target) -> bool:
        """Return whether the run fits with these overrides; raises as ``reload`` and :func:`describe` do."""
        recipe = self.reload(changes) if changes else self.recipe
        model = tuple(change for change in changes if change.startswith(("adapter", "quantizer")))
        if (model, target.kind) not in self.described:
            self.described[model, target.kind] = recipe, describe(recipe, self.data, target.kind)
        described = self.described[model, target.kind][1]
        links = links_of(self.asked, target)
        layouts = Layouts(recipe, self.data, described, target, self.asked.devices, links, None)
        planned, batches = layouts.memory(layouts.choose().layout)
        return planned.fits(batches)

    def fits_gpu(self, changes: Sequence[str], gigabytes: int) -> bool:
        """Return the same for GPUs of that size."""
        return self.fits(changes, target_of(gigabytes * GIGABYTE))


def _existing(path: Path) -> Path:
    """Return the nearest folder that is there already."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())
