"""A tiny model computes with one thread, unless the person has said how many there are to be."""

import pytest
import torch

from dpotrain.engine import threads
from dpotrain.engine.threads import choose_threads, restoring_threads, share_threads
from dpotrain.engine.training.trainer import Trainer
from tests.run.recipes import Recording, project, run
from tests.support import tiny_model

CPU = torch.device("cpu")


@pytest.fixture
def two_threads(monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    with restoring_threads():
        torch.set_num_threads(2)
        yield


def test_a_tiny_model_gets_one_thread_and_the_number_is_put_back(two_threads):
    with restoring_threads():
        assert choose_threads(tiny_model("llama"), CPU) == (
            "1 thread (the model is too small to gain from more)"
        )
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_a_larger_model_keeps_all(two_threads):
    # The largest weight of a layer is just too large; the embedding does not count.
    larger = tiny_model("llama", hidden_size=64, intermediate_size=threads.ONE_THREAD // 64 + 1)
    assert choose_threads(larger, CPU) == "2 threads"
    tiny = tiny_model("llama", vocab_size=threads.ONE_THREAD // 32 + 1)
    assert choose_threads(tiny, CPU).startswith("1 thread")


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_what_the_person_has_set_is_left_alone(two_threads, monkeypatch, name):
    monkeypatch.setenv(name, "2")
    assert choose_threads(tiny_model("llama"), CPU) == "2 threads"
    assert torch.get_num_threads() == 2


def test_threads_of_a_gpu_are_not_chosen(two_threads):
    assert choose_threads(tiny_model("llama"), torch.device("cuda")) == ""
    assert torch.get_num_threads() == 2


def test_the_choice_measures_nothing(two_threads, monkeypatch):
    """A resumed run has the threads of the uninterrupted one, whatever else the machine does."""
    monkeypatch.setattr("time.perf_counter", lambda: pytest.fail("measured"))
    assert choose_threads(tiny_model("llama"), CPU).startswith("1 thread")


def test_a_run_computes_with_them_and_says_so(two_threads, tmp_path, monkeypatch):
    seen = []
    train_step = Trainer.train_step
    monkeypatch.setattr(
        Trainer,
        "train_step",
        lambda self, step: (seen.append(torch.get_num_threads()), train_step(self, step))[1],
    )
    reporter = Recording()
    run(project(tmp_path), "training.steps=2", reporter=reporter)
    assert seen == [1, 1]
    assert torch.get_num_threads() == 2
    assert "1 thread (the model is too small" in reporter.facts["engine"]


@pytest.mark.parametrize(("processes", "threads_of_each"), [(1, 2), (2, 1), (5, 1)])
def test_processes_of_one_machine_share_the_cores(two_threads, processes, threads_of_each):
    share_threads(processes)
    assert torch.get_num_threads() == threads_of_each


def test_processes_keep_the_number_that_the_person_has_set(two_threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    share_threads(2)
    assert torch.get_num_threads() == 2
