"""A stage that fails, dies or hangs says what it knew and takes nothing down with it."""

from __future__ import annotations

import importlib.metadata
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from tests.gpu import checkout
from tests.gpu.child import Child, finish
from tests.gpu.report import Report
from tests.gpu.runner import run_stage, table
from tests.gpu.stages import STAGES, Stage

NUMBER = 90


def passes(report: Report) -> None:
    report.figure("nice number", 1 / 3)
    report.expect(True, "nothing wrong")


def fails(report: Report) -> None:
    report.expect(False, "one thing is wrong")
    report.figure("found afterwards", 2)


def raises(report: Report) -> None:
    raise ValueError("no such thing")


def dies(report: Report) -> None:
    report.figure("before", 1)
    os.kill(os.getpid(), signal.SIGKILL)


def hangs(report: Report) -> None:
    report.figure("before", 1)
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    (report.out / "sleeper").write_text(str(sleeper.pid))
    time.sleep(60)


@pytest.fixture
def stage(monkeypatch, tmp_path):
    """Run one of the functions above as a stage, and return its result."""

    def run(function, limit: float = 30):
        made = Stage(NUMBER, "made up", 30, "", f"test_runner:{function.__name__}")
        monkeypatch.setitem(STAGES, NUMBER, made)
        (tmp_path / "logs").mkdir()
        return run_stage(made, tmp_path, tmp_path, True, limit)

    return run


def test_figures_are_kept_to_four_digits(stage):
    result = stage(passes)
    assert (result.passed, result.figures, result.error) == (True, {"nice number": 0.3333}, "")


def test_a_stage_goes_on_after_what_does_not_hold(stage):
    result = stage(fails)
    assert (result.passed, result.figures, result.error) == (
        False,
        {"found afterwards": 2},
        "one thing is wrong",
    )


def test_what_a_stage_raises_is_its_error(stage, tmp_path):
    result = stage(raises)
    assert not result.passed
    assert result.error == "ValueError: no such thing; ended with code 1"
    assert "Traceback" in (tmp_path / "logs" / f"{NUMBER}.txt").read_text()


def test_a_stage_that_dies_has_said_what_it_knew(stage):
    result = stage(dies)
    assert (result.passed, result.figures, result.error) == (False, {"before": 1}, "ended with code -9")


def test_a_stage_that_hangs_is_stopped_with_the_processes_it_began(stage, tmp_path):
    result = stage(hangs, limit=3)
    assert (result.passed, result.figures, result.error) == (False, {"before": 1}, "stopped after 3 s")
    sleeper = Path("/proc") / (tmp_path / "sleeper").read_text() / "stat"
    deadline = time.monotonic() + 20
    while sleeper.exists() and " Z " not in sleeper.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_without_time_left_nothing_is_begun(stage):
    result = stage(raises, limit=0.5)
    assert (result.passed, result.error) == (False, "not run: no time left")


def test_the_table_shows_every_result(stage):
    result = stage(fails)
    assert table([result]).row_count == 1


def test_children_that_fail_are_named_with_what_they_printed(tmp_path):
    child = Child(raises, None, log=tmp_path / "log.txt")
    with pytest.raises(RuntimeError, match=r"rank 3 ended with code 1: (?s:.*)no such thing"):
        finish({"rank 3": child}, 30)


def test_a_checkout_offers_its_plugins_where_dpotrain_is_not_installed(tmp_path, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", "before")
    checkout.make_importable(tmp_path)
    assert os.environ["PYTHONPATH"].split(os.pathsep)[0] == str(tmp_path)
    assert os.environ["PYTHONPATH"].endswith(f"{os.pathsep}before")
    found = {each.name: each for each in importlib.metadata.distributions(path=[str(tmp_path)])}
    assert found.keys() == {"dpotrain", "dpotrain-gpu-check"}
    project = tomllib.loads((checkout.ROOT / "pyproject.toml").read_text())["project"]
    offered = {(point.group, point.name, point.value) for point in found["dpotrain"].entry_points}
    assert offered == {
        (group, name, value)
        for group, points in project["entry-points"].items()
        for name, value in points.items()
    }
