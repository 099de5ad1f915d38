"""Launching several processes: what is asked for, when they are started again, whose exit code and words the run has.

The ranks are small programs, so that nothing heavy is imported in them; tests/run/test_launched_runs.py has whole runs.
"""

import signal
import sys

import pytest
import torch

from dpotrain.core.errors import ProcessLostError, RecipeError, RunStopped
from dpotrain.engine.launching import agent as agents
from dpotrain.engine.launching.launch import launch
from dpotrain.engine.launching.processes import RankProcesses, rank_command
from dpotrain.engine.launching.request import LaunchRequest, launch_request
from tests.engine.launched import program, run, starts


def asked(processes=None, machines=None, rendezvous=None, max_restarts=None, environment=()):
    return launch_request(processes, machines, rendezvous, max_restarts, dict(environment))


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ((), None),
        (("1",), None),
        (("2",), LaunchRequest(2)),
        (("1", None, None, 0), LaunchRequest(1, max_restarts=0)),
        (("8", "2", "node1:29500"), LaunchRequest(8, 2, 2, "node1", 29500)),
        (("1", "1:4", "[fd00::1]"), LaunchRequest(1, 1, 4, "fd00::1", 29400)),
    ],
)
def test_what_is_asked_for(options, found):
    assert asked(*options) == found


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("0",), "--processes 0 is not a number of processes.\nGive a whole number > 0, or all"),
        (("two",), "--processes two is not a number of processes."),
        (("-1",), "--processes -1 is not a number of processes."),
        (
            ("all",),
            "--processes all: this machine has no CUDA device that torch can use.\n"
            "On a CPU, give the number of processes: --processes 2.",
        ),
        ((None, "2"), "--machines 2 is without --processes.\nAdd --processes N"),
        ((None, None, "node1:1"), "--rendezvous node1:1 is without --processes."),
        ((None, None, None, 2), "--max-restarts 2 is without --processes."),
        (
            ("2", "2"),
            "--machines 2 is without --rendezvous.\nAdd --rendezvous HOST:PORT, the same on every machine",
        ),
        (("2", None, "node1:1"), "--rendezvous node1:1 is without --machines.\nAdd --machines N"),
        (("2", "3:2", "node1:1"), "--machines 3:2 is not a number of machines."),
        (("2", "x", "node1:1"), "--machines x is not a number of machines."),
        (("2", "2", "node1:99999"), "--rendezvous node1:99999 is not HOST:PORT."),
        (("2", "2", "http://node1"), "--rendezvous http://node1 is not HOST:PORT."),
    ],
)
def test_what_is_wrong_is_said_with_a_remedy(options, said, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(RecipeError) as caught:
        asked(*options)
    assert str(caught.value).startswith(said)


def test_a_process_for_each_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert asked("all") == LaunchRequest(4)
    assert asked("4") == LaunchRequest(4)
    with pytest.raises(RecipeError, match=r"--processes 5: this machine has 4 CUDA devices"):
        asked("5")


def test_it_is_refused_in_a_process_that_a_launcher_has_started():
    with pytest.raises(
        RecipeError, match=r"has started this process already \(LOCAL_RANK=1\)\.\nRemove --processes"
    ):
        asked("2", environment={"LOCAL_RANK": "1"})
    # A cluster says in each container how many there are; that starts no processes.
    assert asked("2", environment={"WORLD_SIZE": "2", "RANK": "0"}) == LaunchRequest(2)


def test_a_rank_finds_modules_as_the_launcher_does(monkeypatch):
    monkeypatch.setattr(sys, "path", ["/elsewhere"])
    assert rank_command(["run", "x.toml"]) == [sys.executable, "-P", "-m", "dpotrain", "run", "x.toml"]
    monkeypatch.setattr(sys, "path", ["", "/elsewhere"])
    assert rank_command(["run"]) == [sys.executable, "-m", "dpotrain", "run"]


def test_ranks_know_each_other_as_under_torchrun(tmp_path, said):
    code, _ = run(tmp_path, "", said)
    assert (code, said) == (0, [])
    for rank in (0, 1):
        ((words, environment),) = starts(tmp_path, rank)
        assert words == ["run"]
        expected = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": 2,
            "LOCAL_WORLD_SIZE": 2,
            "MASTER_ADDR": "127.0.0.1",
        }
        assert {name: environment[name] for name in expected} == {
            name: str(each) for name, each in expected.items()
        }
        assert int(environment["MASTER_PORT"]) > 0


def test_a_killed_rank_makes_all_start_again_and_resume(tmp_path, said):
    dies = (
        "if rank == 1 and start == 0: os.kill(os.getpid(), signal.SIGKILL)\nif start == 0: time.sleep(60)\n"
    )
    code, _ = run(tmp_path, dies, said)
    assert code == 0
    (first, before), (second, after) = starts(tmp_path, 0)
    assert (first, second) == (["run"], ["run", "--resume"])
    # A store that keeps what the first ranks have written leads the next ones to processes that have ended.
    assert before["MASTER_PORT"] != after["MASTER_PORT"]
    (text,) = said
    assert "process 1 on " in text
    assert "was killed by SIGKILL (the system does that, too, when its memory runs out)" in text
    assert "the run resumes from its last checkpoint (restart 1 of 3)" in text


def test_a_rank_that_has_lost_another_one_is_a_reason_to_start_again(tmp_path, said):
    code, _ = run(
        tmp_path, "if start == 0 and rank == 0: sys.exit(76)\nif start == 0: time.sleep(60)\n", said
    )
    assert (code, len(starts(tmp_path, 1))) == (0, 2)


def test_a_rank_that_is_killed_every_time_ends_the_run(tmp_path, said):
    dies = "if rank == 1:\n print('the last words', flush=True)\n os.abort()\ntime.sleep(60)\n"
    with pytest.raises(ProcessLostError) as caught:
        run(tmp_path, dies, said, max_restarts=1)
    assert len(starts(tmp_path, 0)) == 2
    assert "process 1 on " in str(caught.value)
    assert "was killed by SIGABRT" in str(caught.value)
    assert "The processes were started 2 times (--max-restarts 1)." in str(caught.value)
    assert said[-1] == "the last lines of process 1:\nthe last words"


@pytest.mark.parametrize("code", [1, 75])
def test_an_exit_code_of_dpotrain_s_own_is_final(code, tmp_path, said):
    """World rank 0 has said why, for another rank as well; the launcher adds nothing."""
    assert run(tmp_path, f"sys.exit({code})", said)[0] == code
    assert (len(starts(tmp_path, 0)), said) == (1, [])


def test_what_a_rank_says_that_fails_alone_is_shown_once(tmp_path, said):
    """Before the ranks know each other, the first one does not hear of it, and waits."""
    fails = "if rank == 1:\n print('error: no such disk', file=sys.stderr)\n sys.exit(1)\ntime.sleep(60)\n"
    assert run(tmp_path, fails, said)[0] == 1
    (text,) = said
    assert text.startswith("process 1 on ")
    assert text.endswith(" ended with exit code 1:\nerror: no such disk")


def test_other_ranks_end_by_themselves_before_they_are_ended(tmp_path, said, monkeypatch):
    monkeypatch.setattr(agents, "ENDING_SECONDS", 60.0)
    ends = "if rank == 0: time.sleep(0.5); (folder / 'closed').touch()\nsys.exit(1)\n"
    assert run(tmp_path, ends, said)[0] == 1
    assert (tmp_path / "closed").exists()


def test_a_signal_that_kills_ranks_before_they_could_save_is_a_stop(tmp_path, said):
    """As they import: what requeues a job looks for exit code 75."""
    ranks = RankProcesses(program(tmp_path, "os.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(60)\n"))
    ranks.asked = signal.SIGTERM
    with pytest.raises(
        RunStopped, match="SIGTERM ended the processes before they could save; --resume begins"
    ):
        launch(LaunchRequest(2), ranks, {}, said.append)


@pytest.mark.parametrize("other", [75, 76])
def test_a_rank_that_was_asked_to_stop_and_lost_another_one(other, tmp_path, said, monkeypatch):
    """The first to end says only that it lost one; what that one ended with counts."""
    monkeypatch.setattr(agents, "ENDING_SECONDS", 60.0)
    ranks = RankProcesses(program(tmp_path, f"if rank: sys.exit(76)\ntime.sleep(1)\nsys.exit({other})\n"))
    ranks.asked = signal.SIGTERM
    if other == 75:
        assert launch(LaunchRequest(2), ranks, {}, said.append) == 75
    else:
        with pytest.raises(
            ProcessLostError, match=r"^process 1 on \S+ has lost another process of the run\.\n"
        ):
            launch(LaunchRequest(2), ranks, {}, said.append)
    assert len(starts(tmp_path, 0)) == 1
