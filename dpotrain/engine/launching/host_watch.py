"""A thread that notices when the machine where all meet is off the network: no answer of its store would ever come."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from pathlib import Path

from dpotrain.engine.launching.request import LaunchRequest

#: Seconds between two looks, and that each may take.
LOOK = 2.5
#: So many looks in a row that fail mean that the machine is lost. They are counted, and no clock is read, so that a job
#: that was suspended as a whole goes on.
SILENT = 6


class HostWatch:
    """Opens a connection to the machine now and then, while the launcher of another machine uses the store there.

    The launcher's thread that waits for the store is in torch, where TCP alone decides, after a quarter of an hour,
    that nothing more will come. Ending its connections makes that wait fail at once, as where the machine still answers
    and has no store any more.
    """

    def __init__(self, request: LaunchRequest) -> None:
        """Begin to look."""
        self._address = request.host, request.port
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="host", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._closing.set()

    def _run(self) -> None:
        failed = 0
        while failed < SILENT:
            if self._closing.wait(LOOK):
                return
            failed = 0 if _answers(self._address) else failed + 1
        end_connections(self._address[1])


def _answers(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=LOOK).close()
    except OSError:
        return False
    return True


def end_connections(port: int) -> None:
    """Shut down every connection of this process to that port of another machine; who reads from one gets an error."""
    for entry in list(Path("/proc/self/fd").iterdir()):
        # Some are no sockets or not connected, and that of the listing is closed by now.
        with suppress(OSError):
            if not entry.is_socket():
                continue
            with socket.socket(fileno=os.dup(int(entry.name))) as connection:
                if connection.getpeername()[1] == port:
                    connection.shutdown(socket.SHUT_RDWR)
