"""``status.json`` says what a run does now, and what is asked of the run's folder reaches the run."""

import json
import os
import time
from pathlib import Path

import pytest

from dpotrain.core.controls import Controls
from dpotrain.core.errors import RunStopped
from dpotrain.core.launched_with import LAUNCH_OPTIONS
from dpotrain.core.records import Outcome, Record, StepRecord
from dpotrain.run.folder.requests import forget_requests, request, serve_requests
from dpotrain.run.folder.status_file import StatusFile
from tests.run.recipes import Recording, project, run
from tests.ui.records import Clock


def step(number: int) -> StepRecord:
    return StepRecord(number, 10, number / 10, {"loss": 1.0}, pairs=8, tokens=100, seconds=2.0)


@pytest.fixture
def clock():
    return Clock(1000.0)


@pytest.fixture
def status(tmp_path, clock):
    return StatusFile(tmp_path / "status.json", clock)


def test_what_a_run_does_now(status, clock):
    status.started("recipe.toml", {"model": "tiny"}, 10)
    with status.phase("evaluating", 20) as advance:
        clock.sleep(5)
        advance(7)
        assert status.as_json()["phases"] == [{"name": "evaluating", "total": 20, "done": 7, "began": 1000.0}]
    status.logged(Record("eval", 0, {"loss": 1.0}))
    status.microbatch(1, 0, 4)
    status.step(step(1))
    status.microbatch(2, 0, 4)
    clock.sleep(1)
    status.microbatch(2, 3, 4)
    assert status.as_json() == {
        "state": "running",
        "pid": os.getpid(),
        "host": os.uname().nodename,
        "launch": [],
        "title": "recipe.toml",
        "info": {"model": "tiny"},
        "began": 1000.0,
        "updated": 1006.0,
        "phases": [],
        "step": 1,
        "total_steps": 10,
        "epoch": 0.1,
        "microbatch": [2, 3, 4],
        "step_began": 1005.0,
        "step_seconds": 2.0,
        "seconds_left": 9 * 2.0 + 5.0,
        "takes_requests": False,
    }


def test_what_is_not_known_is_null_and_json(status):
    values = json.loads(json.dumps(status.as_json(), allow_nan=False))
    assert values["seconds_left"] is values["step_seconds"] is values["microbatch"] is None


@pytest.mark.parametrize(
    ("error", "state"),
    [(ValueError("x"), "failed"), (RunStopped("x"), "stopped"), (KeyboardInterrupt(), "interrupted")],
)
def test_an_error_before_the_run_could_say_how_it_ended(status, tmp_path, error, state):
    def fail() -> None:
        with status:
            assert json.loads((tmp_path / "status.json").read_text())["state"] == "running"
            raise error

    with pytest.raises(type(error)):
        fail()
    assert json.loads((tmp_path / "status.json").read_text())["state"] == state


def test_the_end_is_written_before_the_process_may_leave(status, tmp_path):
    status.finished(Outcome("interrupted", 7, tmp_path, None))
    values = json.loads((tmp_path / "status.json").read_text())
    assert (values["state"], values["step"]) == ("interrupted", 7)


def test_a_change_is_written_and_a_request_served_while_the_run_computes(status, tmp_path):
    controls = Controls()
    deadline = time.monotonic() + 60
    with status:
        status.controls(controls)
        with status.phase("loading the model", None):
            request(tmp_path, "stop")
            while not (controls.stopping and json.loads((tmp_path / "status.json").read_text())["phases"]):
                assert time.monotonic() < deadline
                time.sleep(0.01)
    assert controls.stop_reason == "dpotrain watch"
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def test_requests_are_served_once_and_those_of_a_process_before_are_dropped(tmp_path):
    controls = Controls()
    for what in ("save", "evaluate"):
        request(tmp_path, what)
    serve_requests(tmp_path, controls)
    assert controls.take() == (True, True)
    serve_requests(tmp_path, controls)
    assert controls.take() == (False, False)
    request(tmp_path, "stop")
    forget_requests(tmp_path)
    serve_requests(tmp_path, controls)
    assert not controls.stopping


def test_a_file_that_cannot_be_written_ends_no_run(clock):
    with StatusFile(Path("/proc/no/such/folder/status.json"), clock) as status, status.phase("tokenizing", 3):
        pass


def test_a_run_leaves_its_status_and_drops_what_was_asked_of_another(tmp_path):
    recipe = project(tmp_path)
    (tmp_path / "run").mkdir()
    request(tmp_path / "run", "stop")
    outcome = run(recipe, "training.steps=2", reporter=Recording())
    assert outcome.status == "finished"
    values = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (values["state"], values["step"], values["total_steps"]) == ("finished", 2, 2)
    assert values["takes_requests"]
    assert values["info"]["model"] == str(tmp_path / "model")
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]


def test_records_in_the_log_are_lines_a_person_reads(tmp_path):
    run(project(tmp_path), "training.steps=2", reporter=Recording())
    log = (tmp_path / "run" / "run.log").read_text()
    assert "INFO dpotrain: step 1 loss=0.6931 accuracy=0.5000" in log
    assert "INFO dpotrain: eval step=0 loss=0.6931" in log
    assert "{" not in log


@pytest.mark.parametrize(
    ("environment", "options"),
    [
        ({}, []),
        ({"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}, []),
        (
            {"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "8", LAUNCH_OPTIONS: "--processes\nall"},
            ["--processes", "all"],
        ),
        ({"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "8"}, ["--processes", "8"]),
        (
            {"WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8", "MASTER_ADDR": "node1"},
            ["--processes", "8", "--machines", "2", "--rendezvous", "node1"],
        ),
    ],
)
def test_with_what_the_processes_were_started(environment, options, tmp_path, monkeypatch):
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", LAUNCH_OPTIONS):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert StatusFile(tmp_path / "status.json").as_json()["launch"] == options
