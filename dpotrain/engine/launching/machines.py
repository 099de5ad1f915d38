"""The other machines of a run: how this one is reached by them, where they meet, and whether they are still there."""

from __future__ import annotations

import ipaddress
import os
import socket
import time
from collections.abc import Callable
from uuid import uuid4

from torch.distributed import Store  # type: ignore[attr-defined]  # public all the same
from torch.distributed.elastic.rendezvous import (
    RendezvousConnectionError,
    RendezvousHandler,
    RendezvousParameters,
)
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from dpotrain.core.errors import RunError
from dpotrain.engine.launching.request import LaunchRequest

#: Seconds that a machine waits for the others to come, at first and after one was lost.
JOIN_SECONDS = 30 * 60
#: Seconds that it tries to reach the machine where they meet: that may start later, or its name become known later.
REACH_SECONDS = 10 * 60
#: Seconds between two beats of a machine.
BEAT = 1.0
#: So many beats of the others without a new one of a machine mean that it is lost. They are counted, and no clock is
#: read, so that a job that was suspended as a whole goes on.
SILENT = 30
_LOST = "lost"
#: Added to a machine's number when its ranks have ended well: the others then wait for no further beat.
_DONE = 1 << 40


def rendezvous_of(request: LaunchRequest, say: Callable[[str], None]) -> tuple[RendezvousHandler, str]:
    """Return where the machines of a run meet, and this one's address; a machine alone meets itself at a free port.

    Raises:
        RunError: the machine where they meet cannot be reached.
    """
    # Otherwise torch tells the address of a store, which is not used here, in the first round alone, and a machine that
    # takes the place of a lost one waits for it.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    if not request.host:
        address = "127.0.0.1"
        return _handler(request, "localhost:0", address=address, host=True, name=uuid4().hex), address
    machines = (
        f"{request.fewest}" if request.fewest == request.most else f"{request.fewest} to {request.most}"
    )
    say(f"waiting for {machines} machines at {request.endpoint}")
    address, here = _own_address(request)
    # Another process of this machine may have the port already, and be the one that the others reach.
    for host in (True, False) if here else (False,):
        try:
            return _handler(request, request.endpoint, address=address, host=host, name="dpotrain"), address
        except RendezvousConnectionError as error:
            last = error
    raise RunError(
        f"{request.endpoint} cannot be reached ({last}).\n"
        "Give the same --rendezvous HOST:PORT on every machine, HOST being one of them, and let the others reach that "
        "port."
    ) from last


def _handler(
    request: LaunchRequest, endpoint: str, *, address: str, host: bool, name: str
) -> RendezvousHandler:
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
    return get_rendezvous_handler(parameters)


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


class Machines:
    """Whether the other machines of a round are still there, by numbers that all of them count up in a store.

    The first looks at all others, and they look at it; what one of them misses it tells all.
    """

    def __init__(self, store: Store, number: int, count: int) -> None:
        """Begin; this is machine ``number`` of ``count``."""
        self._store, self._number = store, number
        others = [each for each in range(count) if each != number] if number == 0 else [0]
        self._others = others if count > 1 else []
        self._beats = dict.fromkeys(self._others, -1)
        self._silent = dict.fromkeys(self._others, 0)
        self._next = 0.0

    def lost(self) -> int | None:
        """Count on, if it is time to; return the number of a machine that is lost."""
        if not self._others or time.monotonic() < self._next:
            return None
        self._next = time.monotonic() + BEAT
        self._store.add(f"beat/{self._number}", 1)
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

    def done(self) -> None:
        """Let nobody miss this machine, whose ranks have done their part."""
        if self._others:
            self._store.add(f"beat/{self._number}", _DONE)
