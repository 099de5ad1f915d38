"""One process at a time owns a run folder; what a killed one left behind holds nobody up."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from dpotrain import load_recipe, train
from dpotrain.core.errors import RunError
from dpotrain.core.reporter import SilentReporter
from dpotrain.run import session
from dpotrain.run.folder.lock import RunLock
from tests.run.recipes import project

#: Takes a folder, says so, and waits to be ended.
HOLDS = """
import sys, time
from pathlib import Path
from dpotrain.run.folder.lock import RunLock

with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def held(tmp_path):
    """A run folder that another process owns."""
    run = tmp_path / "run"
    run.mkdir()
    holder = subprocess.Popen([sys.executable, "-c", HOLDS, str(run)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    yield run, holder
    holder.kill()
    holder.wait()


def files(run):
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_a_folder_in_use_is_refused_with_its_owner_and_left_alone(tmp_path, held):
    run, holder = held
    recipe = load_recipe(project(tmp_path))
    before = files(run)
    for resume in (False, True):
        with pytest.raises(RunError) as caught:
            train(recipe, resume=resume, reporter=SilentReporter())
        first, second = str(caught.value).splitlines()
        assert first.startswith(f"{run} is in use: process {holder.pid} on {socket.gethostname()}, since 2")
        assert second == "Wait for it or end it, or choose another folder: --set run.output_dir=…"
    assert files(run) == before


def test_a_kill_leaves_the_folder_to_whoever_comes_next(tmp_path, held):
    run, holder = held
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    outcome = train(load_recipe(project(tmp_path), ["training.steps=1"]), reporter=SilentReporter())
    assert outcome.status == "finished"
    assert not (run / ".owner.json").exists()


def test_a_failed_run_lets_go(tmp_path):
    recipe = project(tmp_path)
    (tmp_path / "pairs.jsonl").write_text("")
    with pytest.raises(Exception, match="pairs"):
        train(load_recipe(recipe), reporter=SilentReporter())
    with RunLock(tmp_path / "run"):
        pass


def test_a_run_that_was_started_again_waits_for_the_lock_of_a_lost_machine(tmp_path, held):
    run, holder = held
    with pytest.raises(RunError, match="is in use"), RunLock(run, patience=0.1):
        pass
    threading.Timer(0.2, holder.kill).start()
    with RunLock(run, patience=60):
        pass


def test_a_resumed_run_waits_for_the_lock_of_another_machine_and_of_no_other(tmp_path, held, monkeypatch):
    """A requeued job, or a machine that takes a lost one's place: no launcher counts that as a start of its own."""
    run, holder = held
    recipe = load_recipe(project(tmp_path), ["training.steps=1"])
    monkeypatch.setattr(session, "LOCK_SECONDS", 60.0)
    with pytest.raises(RunError, match="is in use"):
        train(recipe, resume=True, reporter=SilentReporter())
    owner = json.loads((run / ".owner.json").read_text())
    (run / ".owner.json").write_text(json.dumps(owner | {"host": "node7"}))
    with pytest.raises(RunError, match="on node7, since"):
        train(recipe, reporter=SilentReporter())
    threading.Timer(0.5, holder.kill).start()
    assert train(recipe, resume=True, reporter=SilentReporter()).status == "finished"
