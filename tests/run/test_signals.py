"""Signals ask for an orderly end; what asked is put back afterwards."""

import os
import signal

import pytest

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
    with StopRequest(2, clock=lambda: now[0]) as stop:
        stop.defer()
        now[0] += 119
        assert not stop
        now[0] += 1
        assert stop
        assert stop.name == "run.max_minutes"


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopRequest():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(number) for number in SIGNALS] == before
