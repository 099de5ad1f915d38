"""Loggers in threads of their own: what they get, and what becomes of one that raises, hangs or falls behind."""

import dataclasses
import math
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dpotrain.core.records import LoggedRun, Outcome, Record, Run
from dpotrain.core.reporter import SilentReporter
from dpotrain.plugin.runtime import logger_thread
from dpotrain.plugin.runtime.loggers import LoggerSet
from dpotrain.plugin.runtime.manager import PluginManager
from tests.plugin.fakes import FakeLogger, Offers

RUN_FOLDER = Path("runs/my run")
OUTCOME = Outcome("finished", 10, RUN_FOLDER, None)
#: Longer than any test takes.
PATIENT = 60.0
#: Longer than a busy machine keeps a thread from running: a call that does nothing must not count as one that hangs.
SHORT = 0.5


class Said(SilentReporter):
    """Keeps what is said, and the threads in which it is."""

    def __init__(self):
        self.notes, self.warnings, self.threads = [], [], set()

    def note(self, text):
        self.notes.append(text)
        self.threads.add(threading.current_thread())

    def warn(self, text):
        self.warnings.append(text)
        self.threads.add(threading.current_thread())


def run(reporter: SilentReporter | None = None, main: bool = True) -> Run:
    nothing: Any = None
    said = (reporter or SilentReporter()).note
    return Run(
        RUN_FOLDER, {"seed": 1}, nothing, nothing, nothing, 0, 10, 100, 10, is_main_process=main, note=said
    )


def record(step: int) -> Record:
    return Record("train", step, {"loss": 0.5})


def set_of(*kinds: type, patience: float = PATIENT) -> tuple[LoggerSet, list[Any], Said]:
    (found,) = PluginManager.of(Offers("p", *kinds)).plugins
    plugin = dataclasses.replace(found, distribution="dpotrain-p", version="1.2")
    loggers, reporter = [kind(kind.Options()) for kind in kinds], Said()
    return LoggerSet(loggers, PluginManager([plugin]), reporter, patience), loggers, reporter


class Stuck(FakeLogger):
    """Hangs in ``log`` until ``released``; says when it does."""

    name = "stuck"

    def __init__(self, options):
        super().__init__(options)
        self.reached, self.released = threading.Event(), threading.Event()

    def log(self, record):
        self.reached.set()
        self.released.wait()
        super().log(record)


def test_they_are_opened_fed_and_closed_once_in_order_and_not_in_the_callers_thread():
    threads = set()

    class Noting(FakeLogger):
        name = "noting"

        def log(self, record):
            threads.add(threading.current_thread())
            super().log(record)

    loggers, (noting, fake), _ = set_of(Noting, FakeLogger)
    loggers.start(run())
    for step in range(100):
        loggers.log(record(step))
    loggers.finish(OUTCOME)
    loggers.finish(OUTCOME)
    for logger in (noting, fake):
        assert [name for name, _ in logger.heard] == ["start", *["log"] * 100, "finish"]
        assert [given.step for name, given in logger.heard if name == "log"] == list(range(100))
    (thread,) = threads
    assert thread is not threading.current_thread()


def test_what_is_not_started_is_not_closed():
    loggers, (fake,), _ = set_of(FakeLogger)
    loggers.finish(OUTCOME)
    assert fake.heard == []


def test_on_other_processes_nothing_is_opened():
    loggers, (fake,), _ = set_of(FakeLogger)
    loggers.start(run(main=False))
    loggers.log(record(1))
    loggers.finish(OUTCOME)
    assert fake.heard == []


def test_they_see_the_facts_of_the_run_and_no_policy():
    loggers, (fake,), _ = set_of(FakeLogger)
    this = run()
    loggers.start(this)
    loggers.finish(OUTCOME)
    seen = fake.heard[0][1]
    assert isinstance(seen, LoggedRun)
    assert (seen.folder, seen.total_steps, seen.train_pairs, seen.eval_pairs) == (RUN_FOLDER, 10, 100, 10)
    assert seen.config == this.config
    assert not hasattr(seen, "policy")


def test_what_they_get_is_a_copy_that_neither_the_run_nor_another_logger_changes():
    class Vandal(FakeLogger):
        name = "vandal"

        def log(self, record):
            record.metrics.clear()

        def finish(self, outcome):
            outcome.sections["demo"].clear()

    loggers, (_, stuck), _ = set_of(Vandal, Stuck)
    loggers.start(run())
    metrics, section = {"loss": 0.5}, {"table": [1, 2], "odd": threading.Lock()}
    loggers.log(Record("train", 1, metrics))
    stuck.reached.wait()
    metrics["loss"] = 99.0
    stuck.released.set()
    loggers.finish(dataclasses.replace(OUTCOME, sections={"demo": section}))
    heard = dict(stuck.heard)
    assert heard["log"].metrics == {"loss": 0.5}
    assert heard["finish"].sections["demo"]["table"] == [1, 2]
    assert len(section) == 2


def test_what_they_say_and_report_arrives_in_the_runs_own_thread_before_the_end():
    class Talking(FakeLogger):
        name = "talking"

        def start(self, run):
            super().start(run)
            run.note("at the start")

        def finish(self, outcome):
            self.heard[0][1].report("talking", {"records": 3})
            self.heard[0][1].note("at the end")

    loggers, _, reporter = set_of(Talking)
    this = run(reporter)
    loggers.start(this)
    loggers.finish(OUTCOME)
    assert reporter.notes == ["at the start", "at the end"]
    assert this.sections == {"talking": {"records": 3}}
    assert reporter.threads == {threading.current_thread()}


@pytest.mark.parametrize("method", ["start", "log", "finish"])
@pytest.mark.parametrize("error", [ConnectionError("gone\nsecond line"), SystemExit("gone")])
def test_one_that_raises_is_dropped_by_name_and_the_others_go_on(method, error):
    def fail(self, argument):
        self.heard.append((method, argument))
        raise error

    bad = type("Bad", (FakeLogger,), {"name": "bad", method: fail})
    loggers, (first, second), reporter = set_of(bad, FakeLogger)
    loggers.start(run())
    loggers.log(record(7))
    loggers.log(record(8))
    loggers.finish(OUTCOME)
    assert [name for name, _ in first.heard].count(method) == 1
    assert [name for name, _ in second.heard] == ["start", "log", "log", "finish"]
    (text,) = reporter.warnings
    what = "log of step 7" if method == "log" else method
    more = " …" if isinstance(error, ConnectionError) else ""
    assert text.startswith(
        f'logger "bad" of plugin "p" (dpotrain-p 1.2) is dropped: {what} raised {type(error).__name__}: gone{more} ('
    )
    assert text.endswith("after the run, send them with:\ndpotrain sync 'runs/my run' --to bad")
    assert reporter.threads == {threading.current_thread()}


def test_one_that_hangs_holds_nothing_up_and_is_dropped_with_what_it_was_doing():
    loggers, (stuck, fake), reporter = set_of(Stuck, FakeLogger, patience=SHORT)
    loggers.start(run())
    loggers.log(record(1))
    stuck.reached.wait()
    step = 1
    while "stuck" in loggers.names:  # each of these returns at once, or the test would never end
        step += 1
        loggers.log(record(step))
        time.sleep(0.01)
    (text,) = reporter.warnings
    assert text.startswith(
        'logger "stuck" of plugin "p" (dpotrain-p 1.2) is dropped: log of step 1 has not returned for 0.5 s, and '
    )
    assert f"{step - 1} calls wait for it" in text
    loggers.finish(OUTCOME)
    assert [given.step for name, given in fake.heard if name == "log"] == list(range(1, step + 1))
    assert fake.heard[-1][0] == "finish"
    stuck.released.set()
    assert reporter.warnings == [text]


def test_once_dropped_it_is_called_no_more_even_if_it_comes_back():
    loggers, (stuck,), _ = set_of(Stuck, patience=SHORT)
    loggers.start(run())
    loggers.log(record(1))
    loggers.log(record(2))
    while loggers.names:
        loggers.poll()
        time.sleep(0.01)
    stuck.released.set()
    for thread in threading.enumerate():
        if thread.name == "logger stuck":
            thread.join()
    assert [(name, getattr(given, "step", 0)) for name, given in stuck.heard] == [("start", 0), ("log", 1)]


@pytest.mark.parametrize(("patience", "at_most"), [(SHORT, PATIENT), (PATIENT, SHORT)])
def test_the_end_waits_as_long_as_it_may_and_says_what_was_not_delivered(patience, at_most):
    loggers, (stuck,), reporter = set_of(Stuck, patience=patience)
    loggers.start(run())
    for step in (1, 2, 3):
        loggers.log(record(step))
    stuck.reached.wait()
    loggers.finish(OUTCOME, at_most)
    stuck.released.set()
    (text,) = reporter.warnings
    if at_most < patience:
        assert (
            "is dropped: log of step 1 and 3 calls more were not done 0.5 s after the end of the run" in text
        )
    else:
        assert "is dropped: log of step 1 has not returned for 0.5 s, and " in text
    assert "dpotrain sync" in text
    assert loggers.names == ()


def test_the_end_waits_for_one_that_is_only_slow():
    loggers, (stuck,), reporter = set_of(Stuck)
    loggers.start(run())
    for step in range(20):
        loggers.log(record(step))
    threading.Timer(0.05, stuck.released.set).start()
    loggers.finish(OUTCOME)
    assert [name for name, _ in stuck.heard] == ["start", *["log"] * 20, "finish"]
    assert reporter.warnings == []


def test_one_that_falls_too_far_behind_is_dropped_before_it_fills_the_memory(monkeypatch):
    monkeypatch.setattr(logger_thread, "MOST_WAITING", 50)
    loggers, (stuck,), reporter = set_of(Stuck)
    loggers.start(run())
    loggers.log(record(0))
    stuck.reached.wait()
    for step in range(1, 60):
        loggers.log(record(step))
    assert loggers.names == ()
    (text,) = reporter.warnings
    assert "is dropped: it is 50 calls behind, the next is log of step 1\n" in text
    stuck.released.set()


def test_an_interrupt_ends_the_wait_for_a_logger_at_once():
    """A second Ctrl-C arrives while the end of the run waits."""
    loggers, (stuck,), _ = set_of(Stuck)
    loggers.start(run())
    loggers.log(record(1))
    stuck.reached.wait()
    # However these tests were started: in the background of a shell the signal is ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def finish() -> None:
        # While it waits, or just before.
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        loggers.finish(OUTCOME)

    try:
        with pytest.raises(KeyboardInterrupt):
            finish()
    finally:
        signal.signal(signal.SIGINT, before)
    assert loggers.names == ()
    stuck.released.set()


def test_the_state_of_one_that_raises_meanwhile_is_not_waited_for():
    class Failing(Stuck):
        name = "failing"

        def log(self, record):
            super().log(record)
            raise ConnectionError("gone")

        def state_dict(self):
            return {"calls": len(self.heard)}

    loggers, (failing,), reporter = set_of(Failing, patience=math.inf)
    loggers.start(run())
    loggers.log(record(1))
    failing.reached.wait()
    threading.Timer(0.05, failing.released.set).start()
    assert loggers.state_of(failing) == {}
    (text,) = reporter.warnings
    assert "is dropped: log of step 1 raised ConnectionError: gone" in text
