"""Signals ask for an orderly end; what asked is put back afterwards."""

import os
import queue
import signal
import threading
import time

import pytest

from dpotrain.core.controls import Controls
from dpotrain.core.errors import RunStopped
from dpotrain.run.stopping import SIGNALS, StopRequest


@pytest.mark.parametrize("number", SIGNALS)
def test_once_there_is_something_to_save_a_signal_waits_for_the_step(number):
    with StopRequest() as stop:
        stop.defer()
        assert not stop
        os.kill(os.getpid(), number)
        assert stop
        assert stop.name == number.name


def test_before_that_it_ends_the_run_at_once_with_its_own_exit_code():
    with pytest.raises(RunStopped, match="SIGTERM before the first step") as caught, StopRequest():
        os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.exit_code == 75


def test_a_second_interrupt_stops_at_once():
    with StopRequest() as stop:
        stop.defer()
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_after_another_signal_is_the_first_of_its_kind():
    with StopRequest() as stop:
        stop.defer()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop


def test_a_deadline_asks_by_a_clock_of_its_own_which_no_change_of_time_moves():
    now = [1000.0]
    with StopRequest(minutes=2, clock=lambda: now[0]) as stop:
        stop.defer()
        now[0] += 119
        assert not stop
        now[0] += 1
        assert stop
        assert stop.name == "run.max_minutes"


def test_a_signal_is_acknowledged_at_once_with_what_happens_next():
    said = queue.Queue()
    with StopRequest(say=said.put) as stop:
        stop.defer()
        os.kill(os.getpid(), signal.SIGTERM)
        assert said.get(timeout=60) == (
            "SIGTERM: stopping after this micro-batch, then saving; Ctrl-C again stops now, without saving"
        )


def test_another_thread_may_ask_as_a_signal_does():
    controls = Controls()
    with StopRequest(controls) as stop:
        stop.defer()
        assert not stop
        thread = threading.Thread(target=controls.stop, args=("the key q",))
        thread.start()
        thread.join()
        assert stop
        assert stop.name == "the key q"
        os.kill(os.getpid(), signal.SIGINT)  # the first, which interrupts nothing


def test_what_another_thread_asks_before_there_is_anything_to_save_ends_the_run_at_once():
    controls = Controls()
    asking = threading.Timer(0.1, controls.stop, args=("the key q",))
    asking.start()
    with pytest.raises(RunStopped, match="the key q before the first step"), StopRequest(controls):
        time.sleep(60)


def test_a_forked_process_does_not_report_its_signals_to_the_run():
    said = queue.Queue()
    with StopRequest(say=said.put) as stop:
        stop.defer()
        if not (child := os.fork()):
            os.kill(os.getpid(), signal.SIGINT)
            os._exit(0)
        os.waitpid(child, 0)
        assert not stop
    assert said.empty()


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopRequest():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_signal_that_comes_twice_ends_it_once():
    """A batch system signals every process, and a launcher passes its own on."""
    with StopRequest():
        with pytest.raises(RunStopped):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("launched", [False, True])
def test_an_interrupt_that_the_launcher_passes_on_as_well_is_one(launched, monkeypatch):
    """One that is sent to the process group arrives directly, and again by way of the launcher."""
    if launched:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    with StopRequest() as stop:
        stop.defer()
        os.kill(os.getpid(), signal.SIGINT)
        if launched:
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                pytest.fail("it was taken for a second one")
            assert stop.name == "SIGINT"
            monkeypatch.setattr(stop, "_repeats", 0.0)  # later
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
