"""A checkpoint is of the moment at which it was asked for, wherever and however long it is written."""

import copy
import threading
import time
from dataclasses import replace

import pytest
import torch

from dpotrain.core.errors import RunError
from dpotrain.core.reporter import SilentReporter
from dpotrain.engine.parallel.one_process import OneProcess
from dpotrain.run import session
from dpotrain.run.building import build as building
from dpotrain.run.checkpoint import files as checkpoints
from dpotrain.run.checkpoint import room, saver
from dpotrain.run.checkpoint.saver import Saver
from dpotrain.run.checkpoint.snapshot import Checkpoint
from tests.run.recipes import Recording, project, run
from tests.run.test_checkpoints import trained_model


class Gate:
    """Holds every save back until it is opened, and counts those that are writing at once."""

    def __init__(self, monkeypatch) -> None:
        self.open = threading.Event()
        self.reached = threading.Event()
        self.writing = self.most = 0
        self.threads = []
        ordinary = checkpoints.save

        def save(folder, snapshot):
            self.writing += 1
            self.most = max(self.most, self.writing)
            self.threads.append(threading.current_thread())
            self.reached.set()
            assert self.open.wait(60)
            path = ordinary(folder, snapshot)
            self.writing -= 1
            return path

        monkeypatch.setattr(checkpoints, "save", save)


@pytest.fixture
def gate(monkeypatch):
    gate = Gate(monkeypatch)
    yield gate
    gate.open.set()


def checkpoint(step, model, optimizer):
    return Checkpoint(step, model.state_dict(), optimizer.state_dict(), {})


def test_training_goes_on_and_the_checkpoint_stays_what_it_was(tmp_path, gate):
    model, optimizer = trained_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    moments = optimizer.state_dict()["state"][0]["exp_avg"].clone()
    writer = Saver(tmp_path, prune=lambda: None)
    writer.save(checkpoint(1, model, optimizer), in_background=True)
    assert gate.reached.wait(60)
    assert writer.saved() == []
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1)
        optimizer.state_dict()["state"][0]["exp_avg"].add_(1)
    gate.open.set()
    writer.wait()
    (path,) = writer.saved()
    assert writer.saved() == []
    loaded = checkpoints.load(path)
    assert all(torch.equal(before[name], loaded.trained[name]) for name in before)
    assert torch.equal(loaded.optimizer["state"][0]["exp_avg"], moments)


def test_one_is_written_at_a_time_and_each_is_followed_by_the_removal_of_old_ones(tmp_path, gate):
    model, optimizer = trained_model()
    pruned = []
    writer = Saver(tmp_path, prune=lambda: pruned.append(len(checkpoints.complete(tmp_path))))
    gate.open.set()
    for step in (1, 2, 3):
        writer.save(checkpoint(step, model, optimizer), in_background=True)
    writer.wait()
    assert gate.most == 1
    assert pruned == [1, 2, 3]
    assert [checkpoints.step_of(path) for path in writer.saved()] == [1, 2, 3]


def test_without_room_for_a_copy_it_is_written_at_once(tmp_path, gate, monkeypatch):
    model, optimizer = trained_model()
    size = sum(each.nbytes for each in model.state_dict().values()) * 3  # weights and two moments
    gate.open.set()
    for free, thread in ((size, threading.main_thread()), (2 * size, None)):
        monkeypatch.setattr(saver, "free_memory", lambda device, free=free: free)
        writer = Saver(tmp_path, prune=lambda: None)
        writer.save(checkpoint(1, model, optimizer), in_background=True)
        writer.wait()
        assert (gate.threads[-1] is threading.main_thread()) is (thread is not None)


@pytest.mark.parametrize(
    "ask",
    [
        lambda writer, again: writer.saved(),
        lambda writer, again: writer.wait(),
        lambda writer, again: writer.save(again, in_background=True),
    ],
    ids=["saved", "wait", "save"],
)
def test_what_went_wrong_in_the_thread_is_raised_where_training_is(tmp_path, monkeypatch, ask):
    model, optimizer = trained_model()
    again = checkpoint(2, model, optimizer)
    writer = Saver(tmp_path, prune=lambda: None)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", full)
        writer.save(checkpoint(1, model, optimizer), in_background=True)
        writer._thread.join()
    with pytest.raises(RunError, match="No space left on device"):
        ask(writer, again)
    assert list(tmp_path.iterdir()) == []
    writer.save(checkpoint(3, model, optimizer), in_background=False)
    assert [path.name for path in writer.saved()] == ["step-00000003"]


class OpensAt(SilentReporter):
    """Lets checkpoints be written once the run has come to a step."""

    def __init__(self, gate: Gate, step: int) -> None:
        self.gate, self.at = gate, step
        self.told: list[tuple[int, int]] = []
        self.now = 0

    def step(self, record) -> None:
        self.now = record.step
        if record.step == self.at:
            self.gate.open.set()

    def checkpoint(self, record) -> None:
        self.told.append((record.step, self.now))


def test_a_run_goes_on_while_it_saves_and_tells_of_checkpoints_that_are_complete(tmp_path, gate):
    recipe = project(tmp_path)
    reporter = OpensAt(gate, 3)
    run(recipe, "checkpoints.every=2", "training.steps=5", reporter=reporter)
    assert [step for step, _ in reporter.told] == [2, 4, 5]
    assert reporter.told[0][1] > 2
    assert reporter.told[-1] == (5, 5)
    assert gate.most == 1


class Fails(SilentReporter):
    """Fails in a step, and lets checkpoints be written soon after."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def step(self, record) -> None:
        if record.step == 3:
            threading.Timer(0.2, self.gate.open.set).start()
            raise ZeroDivisionError("in step 3")


def test_a_run_that_fails_waits_for_its_checkpoint(tmp_path, gate):
    recipe = project(tmp_path)
    with pytest.raises(ZeroDivisionError):
        run(recipe, "checkpoints.every=2", reporter=Fails(gate))
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000002"]
    assert gate.writing == 0


class Gathers(OneProcess):
    """Has copies of states, as the main process of sharded weights does, and notes whether one is being written."""

    copies_states = True

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.writing: list[bool] = []

    def trained_state(self, adapter, policy):
        self.writing.append(any(each.name == "checkpoint" for each in threading.enumerate()))
        return copy.deepcopy(dict(super().trained_state(adapter, policy)))

    def optimizer_state(self, optimizer):
        return copy.deepcopy(super().optimizer_state(optimizer))


def test_a_state_is_gathered_when_the_one_before_it_is_written(tmp_path, monkeypatch):
    """Otherwise two of them, whole, would be in the host's memory."""
    parallel, ordinary = Gathers(), checkpoints.save
    monkeypatch.setattr(checkpoints, "save", lambda *given: (time.sleep(0.5), ordinary(*given))[1])
    monkeypatch.setattr(session, "spread", lambda recipe, joined, data: (parallel, ""))
    run(project(tmp_path), "checkpoints.every=1", "training.steps=3")
    assert parallel.writing == [False] * 3


def test_without_room_to_gather_a_state_the_run_says_so_at_its_start_and_ends_with_an_error(
    tmp_path, monkeypatch
):
    fit, seen = building.fit_to_memory, Recording()
    monkeypatch.setattr(building, "fit_to_memory", lambda *given: replace(fit(*given), gathered=5 * 2**30))
    monkeypatch.setattr(session, "spread", lambda recipe, joined, data: (Gathers(), ""))
    monkeypatch.setattr(room, "free_memory", lambda device: 4 * 2**30)
    said = r"takes 5\.0 GB of the main process's host memory.* 4\.0 GB are free there\.\nFree memory on that machine"
    with pytest.raises(RunError, match=said):
        run(project(tmp_path), "checkpoints.every=1", reporter=seen)
    assert any("5.0 GB of the main process's host memory" in each for each in seen.warnings)
    assert "5.0 GB of the main process's host memory for each checkpoint" in seen.facts["memory"]
    monkeypatch.setattr(room, "free_memory", lambda device: 5 * 2**30)
    run(project(tmp_path / "again"), "checkpoints.every=1", "training.steps=1")
