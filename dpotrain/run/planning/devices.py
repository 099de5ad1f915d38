"""A plan for several devices: how they are linked, how fast each is, and the layouts of a run on them."""

from __future__ import annotations

from dataclasses import dataclass

from dpotrain.engine.memory.exchange import Links
from dpotrain.run.planning.layouts import Layouts, Way
from dpotrain.run.planning.target import Target

#: Bytes a second that a device sends over usual links, which reach about two thirds of what their makers name: NVLink 4
#: (H100: 450 GB/s a direction), PCI Express 4.0 x16 (32 GB/s), a network adapter of 400 Gbit/s for each device.
LINKS = {"nvlink": 300e9, "network": 35e9, "pcie": 20e9}
#: Floating-point operations a second of a device that is not here, unless they are given: what an A100 reaches in
#: training, 0.4 of its 312 TFLOP/s in bfloat16 and 0.6 of its 19.5 in float32.
ASSUMED = {"bf16": 125e12, "fp32": 12e12}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a plan for several devices is asked for."""

    devices: int
    link: float | None = None
    """Bytes a second that a device sends; None: NVLink inside a machine, a network between machines."""
    operations: float | None = None
    """Floating-point operations a second of a device; None: measured, estimated or assumed."""


#: A plan for one device.
ONE = Asked(1)


@dataclass(frozen=True, slots=True)
class Devices:
    """A run on several devices."""

    count: int
    machine: int
    """Devices of a machine."""
    layout: str
    """How the run is spread over them."""
    reason: str
    """Why so; "" where the recipe says it."""
    cannot_shard: str
    """Why its weights cannot be sharded; "" where they can."""
    ways: tuple[Way, ...]
    """What it takes so, first, and in other layouts."""
    fewest: int | None
    """Where it fits in none of them: the smallest power of two of such devices over which it fits, sharded."""
    links: Links


def links_of(asked: Asked, target: Target) -> Links:
    """Return how devices are linked."""
    if asked.link is not None:
        return Links(asked.link, asked.link, target.machine)
    return Links(LINKS["nvlink"], LINKS["network"], target.machine)


def devices_of(layouts: Layouts) -> Devices:
    """Return the layouts of a run on its devices."""
    choice = layouts.choose()
    ways = tuple(layouts.ways(choice.layout))
    return Devices(
        count=layouts.devices,
        machine=min(layouts.devices, layouts.target.machine),
        layout=str(choice.layout),
        reason=choice.reason,
        cannot_shard=layouts.cannot_shard(),
        ways=ways,
        fewest=None if any(way.fits for way in ways) else layouts.fewest(),
        links=layouts.links,
    )
