"""What a run takes in each of the layouts that several devices allow: memory, exchange, time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from dpotrain.core.paths import cache_folder
from dpotrain.data.batches.mixture import Indices
from dpotrain.data.batches.plan import BatchPlan
from dpotrain.data.prepare import PreparedData
from dpotrain.engine.memory.choice import Choice, Need, Wanted, choose_layout
from dpotrain.engine.memory.exchange import Exchange, Links, StepWork, exchange_of
from dpotrain.engine.memory.layout import Layout
from dpotrain.engine.memory.planner import MemoryPlan, microbatch_tokens
from dpotrain.recipe.recipe import Recipe
from dpotrain.run.measurements import Learned, device_name, key_of, look_up
from dpotrain.run.planning.description import Description
from dpotrain.run.planning.duration import epoch_operations, passes_without_gradients
from dpotrain.run.planning.target import Target, memory_of
from dpotrain.run.planning.wanted import cannot_shard, wanted_of
from dpotrain.run.speed import Workload

#: The most devices that are tried where more are needed.
MOST_DEVICES = 1024


@dataclass(frozen=True, slots=True)
class Way:
    """A layout, and what a run takes in it; sizes in bytes."""

    layout: str
    overrides: tuple[str, ...]
    """As ``--set`` takes them."""
    chosen: bool
    """Whether the run, as its recipe is, does so."""
    fits: bool
    needed: int
    """What each device needs at the peak."""
    on_host: int
    """What each process needs in the host's memory."""
    longest_pair: int
    """About how many tokens the longest pair may have."""
    exchange: Exchange
    """What a device sends in a step."""
    tokens_per_second: float | None
    """Of all devices together; None where it does not fit or is not known."""
    measured_runs: int
    """Runs whose measured speed this is; 0: it is computed from that of one device and from the exchange."""


@dataclass(frozen=True, slots=True)
class Layouts:
    """A run on so many devices, of which each layout is planned."""

    recipe: Recipe
    data: PreparedData
    described: Description
    target: Target
    devices: int
    links: Links
    operations: float | None
    """Floating-point operations a second of one device; None where they are not known."""

    def choose(self) -> Choice:
        """Return the layout of the run, as ``dpotrain run`` chooses it.

        Raises:
            RecipeError: the devices cannot be divided as the recipe says.
        """
        return choose_layout(
            wanted_of(self.recipe),
            self.devices,
            machine=min(self.devices, self.target.machine),
            device=self.target.kind,
            cannot_shard=self.cannot_shard,
            need=self.need,
        )

    def cannot_shard(self) -> str:
        """Return why weights cannot be sharded; "" where they can."""
        return cannot_shard(self.recipe, self.described.share)

    def need(self, layout: Layout) -> Need:
        """Return what each device needs at least."""
        return self.memory(layout)[0].need

    def memory(self, layout: Layout) -> tuple[MemoryPlan, BatchPlan]:
        """Return what a rank holds, and the steps as they are cut."""
        return memory_of(self.recipe, self.data, self.described, self.target, layout, self.learned(layout))

    def learned(self, layout: Layout) -> Learned | None:
        """Return what runs of this model in this layout measured here."""
        if not self.target.here:
            return None
        key = key_of(
            self.recipe,
            self.described.size,
            device=device_name(torch.device(self.target.kind), layout),
            precision=self.described.precision,
            packed=self.described.packs,
        )
        return look_up(cache_folder(self.recipe.run.cache_dir), key)

    def exchange(self, planned: MemoryPlan, batches: BatchPlan) -> Exchange:
        """Return what a device sends in a step."""
        microbatches, reference = microbatch_tokens(batches), self.described.reference
        passes = passes_without_gradients(self.recipe, self.described, batches)
        work = StepWork(
            microbatches=sum(map(len, microbatches)) / len(microbatches) / batches.ranks,
            tokens=self.tokens_per_step(batches) / batches.ranks,
            passes=passes if reference is None else passes - 1,
            reached=self.described.work.reached,
            recomputed=planned.fit.checkpointed / max(1, planned.fit.layers),
            attention=self.described.attention,
        )
        layout = planned.share.layout
        return exchange_of(planned.share, work, None if reference is None else reference.in_layout(layout))

    def rate(self, planned: MemoryPlan, batches: BatchPlan) -> float | None:
        """Return the floating-point operations a second of all devices, exchange included; None if not known."""
        layout = planned.share.layout
        if (learned := self.learned(layout)) is not None:
            return learned.rate
        # How long the host takes to send shards and to update them is not known.
        if self.operations is None or layout.offload:
            return None
        step = self._operations(planned, batches) / batches.steps_per_epoch
        # With fewer pairs in a step, the others compute fillers.
        busy = min(layout.data_ranks, batches.pairs_per_step) * layout.context
        exchange = self.exchange(planned, batches)
        return step / exchange.seconds(step / (self.operations * busy), layout, self.links)

    def tokens_per_step(self, batches: BatchPlan) -> float:
        """Return the tokens of an average step."""
        return float(self.data.train.lengths[self._first_epoch(batches)].sum()) / batches.steps_per_epoch

    def ways(self, chosen: Layout) -> Iterator[Way]:
        """Yield what the run takes as it is and in other layouts."""
        for layout in dict.fromkeys([chosen, *self._others()]):
            planned, batches = self.memory(layout)
            fits = planned.fits(batches)
            rate = self.rate(planned, batches) if fits else None
            learned = self.learned(layout)
            yield Way(
                layout=str(layout),
                overrides=tuple(_overrides(layout, wanted_of(self.recipe))),
                chosen=layout == chosen,
                fits=fits,
                needed=sum(planned.parts(batches).values()),
                on_host=planned.host_bytes(batches),
                longest_pair=planned.longest_possible,
                exchange=self.exchange(planned, batches),
                tokens_per_second=None if rate is None else self._tokens_per_second(planned, batches, rate),
                measured_runs=0 if learned is None else learned.runs,
            )

    def fewest(self) -> int | None:
        """Return the smallest power of two of devices, more than these, over which it fits sharded; None if none."""
        context = wanted_of(self.recipe).context
        devices = 1 << self.devices.bit_length()
        while devices <= MOST_DEVICES and not self.cannot_shard():
            if not devices % context and self.need(Layout(devices, devices, context)).enough:
                return devices
            devices *= 2
        return None

    def _others(self) -> Iterator[Layout]:
        wanted, devices = wanted_of(self.recipe), self.devices
        whole = Layout(devices, context=wanted.context)
        everything = replace(whole, shards=devices)
        kept = [whole]
        if not self.cannot_shard() and devices > 1:
            machine = min(self.target.machine, devices)
            group = machine if machine < devices else devices // 2
            if group > 1 and devices % group == 0:
                kept.append(replace(everything, shards=group))
            kept.append(everything)
            if self.target.kind != "cpu":
                kept.append(replace(everything, offload=True))
        yield from kept
        heads, twice = self.described.attention.heads, 2 * wanted.context
        if devices % twice == 0 and heads and heads % twice == 0:
            yield from (replace(each, context=twice) for each in (whole, everything) if each in kept)

    def _first_epoch(self, batches: BatchPlan) -> Indices:
        return batches.mixture.order(self.recipe.seed, 0, self.recipe.data.shuffle)

    def _operations(self, planned: MemoryPlan, batches: BatchPlan) -> float:
        """Return the floating-point operations of an epoch."""
        load = Workload.of(self.data.train.select(self._first_epoch(batches)), batches.costs.padded)
        return epoch_operations(self.recipe, self.described, batches, planned.fit, load)

    def _tokens_per_second(self, planned: MemoryPlan, batches: BatchPlan, rate: float) -> float:
        tokens = self.tokens_per_step(batches) * batches.steps_per_epoch
        return tokens * rate / self._operations(planned, batches)


def _overrides(layout: Layout, wanted: Wanted) -> Iterator[str]:
    """Yield what makes a recipe that wants another layout have this one."""
    yield f"parallel.shard={'none' if layout.shards is None else 'all'}"
    if layout.shards is None:
        yield from ["parallel.group=false"] * (wanted.group is not None)
    elif layout.shards != (wanted.group or layout.devices):
        yield f"parallel.group={layout.shards}"
    if layout.context != wanted.context:
        yield f"parallel.context={layout.context}"
    if layout.offload != wanted.offload:
        yield f"parallel.offload={'cpu' if layout.offload else 'false'}"
