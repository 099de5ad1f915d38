"""What a person asks of the launcher: how many processes, on how many machines, and where these find each other."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from dpotrain.core.errors import RecipeError

#: The port of torch's own launcher where none is named.
DEFAULT_PORT = 29400
#: How often the processes are started again after a failure that need not come again.
DEFAULT_RESTARTS = 3

_ENDPOINT = re.compile(r"(?:\[(?P<v6>[\da-fA-F:.]+)\]|(?P<host>[\w.-]+))(?::(?P<port>\d+))?")
#: Set in every process that a launcher has started. A batch system sets others in what it starts on each machine.
_LAUNCHED = ("LOCAL_RANK", "TORCHELASTIC_RUN_ID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK")


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """A run of several processes, as it is asked for on one machine."""

    processes: int
    """On this machine."""
    fewest: int = 1
    """Machines without which the run does not start."""
    most: int = 1
    """Machines that it takes."""
    host: str = ""
    """The machine on which all of them meet; "" for one machine alone."""
    port: int = 0
    """The port there."""
    max_restarts: int = DEFAULT_RESTARTS

    @property
    def endpoint(self) -> str:
        """Where the machines meet, as people write it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def launch_request(
    processes: str | None,
    machines: str | None,
    rendezvous: str | None,
    max_restarts: int | None,
    environment: Mapping[str, str],
) -> LaunchRequest | None:
    """Return what the options of the command line ask for; None for a single process without a launcher.

    ``environment`` says whether a launcher has started this process already.

    Raises:
        RecipeError: they are wrong, or cannot be had here.
    """
    if processes is None:
        given = {"--machines": machines, "--rendezvous": rendezvous, "--max-restarts": max_restarts}
        for name, value in given.items():
            if value is not None:
                raise RecipeError(
                    f"{name} {value} is without --processes.\n"
                    "Add --processes N, the number of processes on each machine, or --processes all."
                )
        return None
    for name in _LAUNCHED:
        if name in environment:
            raise RecipeError(
                f"--processes {processes}: a launcher has started this process already "
                f"({name}={environment[name]}).\n"
                "Remove --processes, or start dpotrain without that launcher."
            )
    fewest, most = _machines(machines, rendezvous)
    host, port = ("", 0) if rendezvous is None else _endpoint(rendezvous)
    count = _processes(processes)
    if count == 1 and rendezvous is None and max_restarts is None:
        return None
    restarts = DEFAULT_RESTARTS if max_restarts is None else max_restarts
    return LaunchRequest(count, fewest, most, host, port, restarts)


def _machines(machines: str | None, rendezvous: str | None) -> tuple[int, int]:
    """Return the fewest and the most machines."""
    if machines is None:
        if rendezvous is not None:
            raise RecipeError(
                f"--rendezvous {rendezvous} is without --machines.\n"
                "Add --machines N, the number of machines that meet there; one machine needs neither."
            )
        return 1, 1
    fewest, colon, most = machines.partition(":")
    numbers = [int(each) for each in (fewest, most if colon else fewest) if each.isdecimal()]
    if len(numbers) != 2 or not 1 <= numbers[0] <= numbers[1]:
        raise RecipeError(
            f"--machines {machines} is not a number of machines.\n"
            "Give a whole number > 0, or FEWEST:MOST: --machines 4, --machines 2:4."
        )
    if rendezvous is None and numbers[1] > 1:
        raise RecipeError(
            f"--machines {machines} is without --rendezvous.\n"
            f"Add --rendezvous HOST:PORT, the same on every machine: HOST is one of them, PORT is free there "
            f"({DEFAULT_PORT} unless given)."
        )
    return numbers[0], numbers[1]


def _endpoint(rendezvous: str) -> tuple[str, int]:
    found = _ENDPOINT.fullmatch(rendezvous)
    port = DEFAULT_PORT if found is None or found["port"] is None else int(found["port"])
    if found is None or not 0 < port < 1 << 16:
        raise RecipeError(
            f"--rendezvous {rendezvous} is not HOST:PORT.\n"
            "Give the name or address of one of the machines and a free port there: --rendezvous node1:29400."
        )
    return found["v6"] or found["host"], port


def _processes(processes: str) -> int:
    """Return the number of processes on this machine."""
    if processes != "all" and (not processes.isdecimal() or int(processes) < 1):
        raise RecipeError(
            f"--processes {processes} is not a number of processes.\n"
            "Give a whole number > 0, or all for one process on each CUDA device of the machine."
        )
    if sys.platform != "linux":
        raise RecipeError("--processes needs Linux.\nStart the processes with torchrun.")
    import torch

    devices = torch.cuda.device_count()
    if processes == "all":
        if not devices:
            raise RecipeError(
                "--processes all: this machine has no CUDA device that torch can use.\n"
                "On a CPU, give the number of processes: --processes 2. They share the processor's cores."
            )
        return devices
    if 0 < devices < int(processes):
        raise RecipeError(
            f"--processes {processes}: this machine has {devices} CUDA device{'s' * (devices > 1)}, and each "
            f"process needs one of its own.\nGive --processes {devices} or fewer, or all."
        )
    return int(processes)
