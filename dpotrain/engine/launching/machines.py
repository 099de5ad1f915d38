"""The other machines of a run: how this one is reached by them, where they meet, and whether they are still there."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any
from uuid import uuid4

from torch.distributed import Store  # type: ignore[attr-defined]  # public all the same
from torch.distributed.elastic.rendezvous import (
    RendezvousConnectionError,
    RendezvousHandler,
    RendezvousParameters,
)
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import create_backend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import create_handler

from dpotrain.core.errors import RecipeError, RunError
from dpotrain.engine.launching.request import LaunchRequest
from dpotrain.engine.parallel.same_recipe import differing_keys, flat_settings

#: Seconds that a machine waits for the others to come, at first and after one was lost.
JOIN_SECONDS = 30 * 60
#: Seconds that it tries to reach the machine where they meet: that may start later, or its name become known later.
REACH_SECONDS = JOIN_SECONDS
#: Seconds between two beats of a machine.
BEAT = 1.0
#: So many beats of the others without a new one of a machine mean that it is lost. They are counted, and no clock is
#: read, so that a job that was suspended as a whole goes on.
SILENT = 30
#: Seconds that the machine with the store of all stays for others that have not heard yet how the run has ended.
LEAVING_SECONDS = 60.0
_RECIPE, _LOST, _END, _DONE_COUNT, _LEFT_COUNT = "dpotrain/recipe", "lost", "end", "done", "left"
#: Added to a machine's number when its ranks have ended well: the others then wait for no further beat.
_DONE = 1 << 40


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where the machines of a run meet."""

    handler: RendezvousHandler
    address: str
    """This machine's, for the others."""
    hosts: bool
    """Whether this machine has the store that all use."""


def meet(request: LaunchRequest, document: Mapping[str, Any], say: Callable[[str], None]) -> Meeting:
    """Return where the machines of a run meet; a machine alone meets itself at a free port.

    ``document`` is the resolved recipe.

    Raises:
        RunError: the machine where they meet cannot be reached.
        RecipeError: machines with another recipe meet there.
    """
    # Otherwise torch tells the address of a store, which is not used here, in the first round alone, and a machine that
    # takes the place of a lost one waits for it.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    if not request.host:
        address = "127.0.0.1"
        return _meeting(request, document, "localhost:0", address=address, host=True, name=uuid4().hex)
    if request.most > 1:
        few = f"{request.fewest} to " if request.fewest < request.most else ""
        say(f"waiting for {few}{request.most} machines at {request.endpoint}")
    address, here = _own_address(request)
    # Another process of this machine may have the port already, and be the one that the others reach.
    for host in (True, False) if here else (False,):
        try:
            return _meeting(request, document, request.endpoint, address=address, host=host, name="dpotrain")
        except RendezvousConnectionError as error:
            last = error
    raise RunError(
        f"{request.endpoint} cannot be reached ({last}).\n"
        "Give the same --rendezvous HOST:PORT on every machine, HOST being one of them, and let the others reach that "
        "port."
    ) from last


def _meeting(
    request: LaunchRequest, document: Mapping[str, Any], endpoint: str, *, address: str, host: bool, name: str
) -> Meeting:
    parameters = RendezvousParameters(
        backend="c10d",
        endpoint=endpoint,
        run_id=name,
        min_nodes=request.fewest,
        max_nodes=request.most,
        local_addr=address,
        is_host=host,
        join_timeout=JOIN_SECONDS,
        read_timeout=REACH_SECONDS,
    )
    backend, store = create_backend(parameters)
    mine = flat_settings(document)
    there = store.compare_set(_RECIPE, "", json.dumps(mine, sort_keys=True))
    if lines := differing_keys([json.loads(there), mine], ["the run there", "this one"]):
        raise RecipeError(
            f"machines with another recipe meet at {request.endpoint}:\n"
            + "\n".join(lines)
            + "\nGive the same recipe with the same --set on every machine; another run needs another --rendezvous."
        )
    return Meeting(create_handler(store, backend, parameters), address, host)


def _own_address(request: LaunchRequest) -> tuple[str, bool]:
    """Return this machine's address as the others reach it, and whether they meet on this machine."""
    deadline = time.monotonic() + REACH_SECONDS
    while True:
        try:
            family, *_, there = socket.getaddrinfo(request.host, request.port, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect(there)  # sends nothing, and finds out which of the own addresses is on the way
                own = str(probe.getsockname()[0])
            break
        except OSError as error:
            if time.monotonic() >= deadline:
                raise RunError(
                    f"the machine {request.host} of --rendezvous cannot be reached: {error.strerror or error}.\n"
                    "Give the name or address of a machine that all machines know."
                ) from error
            time.sleep(BEAT)
    if ipaddress.ip_address(own.partition("%")[0]).is_loopback:
        return request.host, True  # a name that means this machine here, and is known to the others
    return own, own == there[0]


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ends on all machines, because of what happened on one."""

    code: int
    """The exit code."""
    text: str
    """What happened, for people."""


class Machines:
    """Whether the other machines of a round are still there, by numbers that all of them count up in a store.

    The first looks at all others, and they look at it; what one of them misses it tells all. So does one on which the
    run has ended for good.
    """

    def __init__(self, store: Store, number: int, count: int) -> None:
        """Begin; this is machine ``number`` of ``count``."""
        self._store, self._number, self._count = store, number, count
        others = [each for each in range(count) if each != number] if number == 0 else [0]
        self._others = others if count > 1 else []
        self._beats = dict.fromkeys(self._others, -1)
        self._silent = dict.fromkeys(self._others, 0)
        self._next = 0.0
        self._is_done = False

    def beat(self) -> bool:
        """Count on, and return True, if it is time to."""
        if not self._others or time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + BEAT
        self._store.add(f"beat/{self._number}", 1)
        return True

    def lost(self) -> int | None:
        """Count on, if it is time to; return the number of a machine that is lost."""
        if not self.beat():
            return None
        if self._store.check([_LOST]):
            return int(self._store.get(_LOST))
        for other in self._others:
            beat = self._store.add(f"beat/{other}", 0)
            still = beat == self._beats[other] and beat < _DONE
            self._silent[other] = self._silent[other] + 1 if still else 0
            self._beats[other] = beat
            if self._silent[other] >= SILENT:
                self._store.set(_LOST, str(other))
                return other
        return None

    def done(self) -> bool:
        """Let nobody miss this machine, whose ranks have done their part; return whether those of all have."""
        if not self._others:
            return True
        if not self._is_done:
            self._is_done = True
            self._store.add(f"beat/{self._number}", _DONE)
            self._store.add(_DONE_COUNT, 1)
        return bool(self._store.add(_DONE_COUNT, 0) == self._count)

    def end(self, end: RunEnd) -> None:
        """Tell all machines how the run ends; the first to say so is believed."""
        if self._others:
            self._store.compare_set(_END, "", json.dumps(asdict(end)))

    def ended(self, seconds: float = 0.0) -> RunEnd | None:
        """Return how the run ends, if a machine has said so or does within so many seconds."""
        if not self._others:
            return None
        deadline = time.monotonic() + seconds
        while not self._store.check([_END]):
            if time.monotonic() >= deadline:
                return None
            time.sleep(BEAT / 10)
        return RunEnd(**json.loads(self._store.get(_END)))

    def leave(self, *, hosts: bool) -> None:
        """Use the store no more. The one that ``hosts`` it returns when all others have left, or are lost."""
        if not self._others:
            return
        deadline = time.monotonic() + LEAVING_SECONDS
        left = self._store.add(_LEFT_COUNT, 1)
        while hosts and left < self._count and time.monotonic() < deadline and self.lost() is None:
            time.sleep(BEAT / 10)
            left = self._store.add(_LEFT_COUNT, 0)
