"""The machine where all meet, looked at from another one."""

import os
import socket
import threading

import pytest
from torch.distributed import DistError, TCPStore

from dpotrain.engine.launching import host_watch
from dpotrain.engine.launching.host_watch import HostWatch
from dpotrain.engine.launching.request import LaunchRequest


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(host_watch, "LOOK", 0.05)


@pytest.fixture
def silent():
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def watch(port: int) -> HostWatch:
    return HostWatch(LaunchRequest(1, 2, 2, "127.0.0.1", port))


def test_who_waits_for_its_store_gets_an_error_once_it_is_lost(silent):
    with socket.create_connection(silent.getsockname()) as waits:
        accepted, _ = silent.accept()
        with accepted:
            silent.close()  # from here on nobody connects; the connection that is there stays
            watched = watch(waits.getpeername()[1])
            waits.settimeout(60)
            assert waits.recv(1) == b""
            watched.close()


def test_one_that_takes_connections_is_not_lost(silent):
    """However long its store takes to answer."""
    with socket.create_connection(silent.getsockname()) as waits:
        watched = watch(waits.getpeername()[1])
        waits.settimeout(10 * host_watch.SILENT * host_watch.LOOK)
        with pytest.raises(TimeoutError):
            waits.recv(1)
        watched.close()


def test_torch_reports_a_connection_that_was_ended_as_a_store_that_is_lost():
    """And nothing else of the process is touched or kept open."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    there = TCPStore("127.0.0.1", store.port, is_master=False)
    ended = threading.Timer(0.2, host_watch.end_connections, [store.port])
    ended.start()
    with pytest.raises(DistError):
        there.get("never set")
    ended.join()
    read, write = os.pipe()
    host_watch.end_connections(store.port)
    os.close(write)
    os.set_blocking(read, False)
    assert os.read(read, 1) == b""
    os.close(read)
