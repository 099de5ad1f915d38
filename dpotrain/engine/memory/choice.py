"""Whether a run shards its weights, where the recipe leaves that to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from dpotrain.core.formats import megabytes
from dpotrain.engine.memory.layout import Layout

#: Devices of a usual machine, where it is not known.
USUAL_MACHINE = 8


@dataclass(frozen=True, slots=True)
class Wanted:
    """``[parallel]`` of a recipe."""

    shard: Literal["auto", "none", "all"] = "auto"
    group: int | None = None
    """Ranks among which one copy of the weights is split; None: all, or what is chosen for "auto"."""
    context: int = 1
    offload: bool = False


@dataclass(frozen=True, slots=True)
class Need:
    """What a device needs in a layout, and whether it has it; sizes in bytes."""

    bytes: int
    available: int
    enough: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """How a run is spread over its devices, and why."""

    layout: Layout
    reason: str
    """One line; "" where there is nothing to choose."""


def choose_layout(
    wanted: Wanted,
    devices: int,
    *,
    machine: int,
    device: str,
    cannot_shard: Callable[[], str],
    need: Callable[[Layout], Need],
) -> Choice:
    """Return the layout of a run: the recipe's, or for "auto" on GPUs the first of these in which it fits.

    All weights on every device; weights sharded over the devices of a machine, where there are several; sharded over
    all devices. Where none is enough, it is the last, which takes the least. The choice follows from the arguments
    alone, so every rank that has the same ones chooses the same.

    Args:
        wanted: What the recipe says.
        devices: Number of processes, each with a device of its own.
        machine: How many of them each machine has.
        device: "cpu" or "cuda".
        cannot_shard: Says why the recipe cannot be trained with sharded weights; "" where it can.
        need: What each device needs in a layout.

    Raises:
        RecipeError: ``parallel.context`` or ``parallel.group`` does not divide the devices.
    """
    whole = Layout(devices, context=wanted.context)
    if devices == 1:
        return Choice(whole, "")
    # A CPU's memory is the host's.
    sharded = Layout(devices, wanted.group or devices, wanted.context, wanted.offload and device != "cpu")
    if wanted.shard != "auto":
        return Choice(sharded if wanted.shard == "all" else whole, "")
    if device == "cpu":
        return Choice(whole, "")
    first = need(whole)
    takes = f"{_size(first.bytes)} of the {_size(first.available)} of each device"
    if first.enough:
        return Choice(whole, f"weights are replicated, which takes at least {takes}")
    if why := cannot_shard():
        return Choice(whole, f"weights are replicated, which takes {takes}: {why}")
    for layout in _sharded(wanted, sharded, machine):
        found = need(layout)
        if found.enough:
            break
    over = "all devices" if layout.shards == devices else f"groups of {layout.shards} devices"
    reason = f"weights are sharded over {over}: replicated they take {takes}, sharded {_size(found.bytes)}"
    return Choice(layout, reason + ("" if found.enough else ", which is too much, too"))


def _sharded(wanted: Wanted, everything: Layout, machine: int) -> Iterator[Layout]:
    devices = everything.devices
    if wanted.group is None and 1 < machine < devices and devices % machine == 0:
        yield replace(everything, shards=machine)
    yield everything


def _size(value: int) -> str:
    return megabytes(value / 2**20)
