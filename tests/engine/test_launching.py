"""Launching several processes: what is asked for, when they are started again, whose exit code and words the run has.

The ranks are small programs, so that nothing heavy is imported in them; tests/run/test_launched_runs.py has whole runs.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.distributed.elastic.rendezvous import RendezvousConnectionError, RendezvousTimeoutError

from dpotrain.core.errors import ProcessLostError, RecipeError, RunError, RunStopped
from dpotrain.engine.launching import agent as agents
from dpotrain.engine.launching import launch as launching
from dpotrain.engine.launching import machines
from dpotrain.engine.launching.launch import launch
from dpotrain.engine.launching.machines import Machines, RunEnd
from dpotrain.engine.launching.processes import RankProcesses, rank_command
from dpotrain.engine.launching.request import LaunchRequest, launch_request
from tests.run.forked import ROOT
from tests.ui.terminals import OnTerminal


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


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """What the launcher said; it waits for no rank longer than a test should."""
    monkeypatch.setattr(agents, "ENDING_SECONDS", 0.5)
    monkeypatch.setattr(agents, "LOOK_SECONDS", 0.02)
    return []


def program(folder: Path, code: str) -> list[str]:
    """Return a command that notes its environment, number of start and arguments, and goes on with ``code``."""
    begin = (
        "import json, os, pathlib, signal, sys, time\n"
        f"folder = pathlib.Path({str(folder)!r})\n"
        "rank = int(os.environ['RANK'])\n"
        "start = len(list(folder.glob(f'{rank}-*')))\n"
        "(folder / f'{rank}-{start}').write_text(json.dumps([sys.argv[1:], dict(os.environ)]))\n"
    )
    return [sys.executable, "-I", "-S", "-c", begin + code, "run"]


def starts(folder: Path, rank: int) -> list[tuple[list[str], dict[str, str]]]:
    return [tuple(json.loads(path.read_text())) for path in sorted(folder.glob(f"{rank}-*"))]


def run(folder: Path, code: str, said: list[str], **request) -> tuple[int, RankProcesses]:
    ranks = RankProcesses(program(folder, code))
    return launch(LaunchRequest(2, **request), ranks, {}, said.append), ranks


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


#: A launcher without torch: two ranks that count signals and end when they have had ``sys.argv[2]`` of them.
SIGNALLED = """
import sys
import time
from pathlib import Path
from dpotrain.engine.launching.passing_signals import passing_signals
from dpotrain.engine.launching.processes import RankProcesses

rank = '''
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
seen = []
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda number, frame: seen.append(signal.Signals(number).name))
(folder / ("ready-" + os.environ["RANK"])).touch()
while not (folder / "go").exists():
    time.sleep(0.01)
(folder / ("seen-" + os.environ["RANK"])).write_text(" ".join(seen))
'''
folder = sys.argv[1]
ranks = RankProcesses([sys.executable, "-I", "-S", "-c", rank, folder])
with passing_signals(ranks, print):
    print("waiting", flush=True)
    while len(sys.argv) > 2 and not Path(folder, "begin").exists():
        time.sleep(0.01)
    ranks.start({0: {"RANK": "0"}, 1: {"RANK": "1"}})
    ranks.wait(60)
print("asked by", ranks.asked and ranks.asked.name)
"""


def until(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.01)


def ready(folder: Path) -> None:
    until(folder / "ready-0")
    until(folder / "ready-1")


def seen(folder: Path) -> list[str]:
    return [(folder / f"seen-{rank}").read_text() for rank in (0, 1)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_the_launcher_reaches_every_rank_once(number, tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", SIGNALLED, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE
    ) as started:
        ready(tmp_path)
        os.kill(started.pid, number)
        time.sleep(0.3)  # a second one would come by now
        (tmp_path / "go").touch()
        out, _ = started.communicate(timeout=60)
    assert seen(tmp_path) == [number.name] * 2
    assert f"asked by {number.name}" in out.decode()


def test_ctrl_c_in_a_terminal_reaches_every_rank_once(tmp_path):
    with OnTerminal(SIGNALLED, str(tmp_path)) as terminal:
        ready(tmp_path)
        terminal.press("\x03")
        time.sleep(0.3)
        (tmp_path / "go").touch()
        assert terminal.end() == 0
        assert "asked by SIGINT" in terminal.screen.text
    assert seen(tmp_path) == ["SIGINT"] * 2


def test_a_signal_while_no_rank_runs_ends_the_launcher(tmp_path):
    words = [sys.executable, "-c", SIGNALLED, str(tmp_path), "waits"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        started.stdout.readline()
        os.kill(started.pid, signal.SIGTERM)
        out, _ = started.communicate(timeout=60)
    assert started.returncode == 75
    assert b"SIGTERM while no process of the run was running; --resume begins or continues the run" in out


class Store:
    """The part of a store that machines use, in this process."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def add(self, key: str, amount: int) -> int:
        self.values[key] = str(int(self.values.get(key, 0)) + amount)
        return int(self.values[key])

    def check(self, keys: list[str]) -> bool:
        return all(key in self.values for key in keys)

    def get(self, key: str) -> bytes:
        return self.values[key].encode()

    def set(self, key: str, value: str) -> None:
        self.values[key] = value

    def compare_set(self, key: str, expected: str, value: str) -> bytes:
        if self.values.get(key, "") == expected:
            self.values[key] = value
        return self.get(key)


@pytest.fixture
def three(monkeypatch) -> list[Machines]:
    monkeypatch.setattr(machines, "BEAT", 0.0)
    store = Store()
    return [Machines(store, number, 3) for number in range(3)]


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_machine_that_no_longer_counts_is_lost_for_all_others(gone, three):
    for _ in range(50):
        assert [each.lost() for each in three] == [None] * 3
    others = [each for number, each in enumerate(three) if number != gone]
    for _ in range(machines.SILENT + 2):
        found = [each.lost() for each in others]
    assert found == [gone, gone]


def test_a_machine_whose_ranks_have_ended_well_is_not_missed(three):
    three[1].lost()
    three[1].done()
    for _ in range(machines.SILENT * 3):
        assert [three[0].lost(), three[2].lost()] == [None, None]


def test_a_machine_alone_asks_nobody():
    assert Machines(None, 0, 1).lost() is None


@pytest.mark.parametrize("number", [0, 2])
def test_how_a_run_ends_on_one_machine_is_known_on_all(number, three):
    assert [each.ended() for each in three] == [None] * 3
    three[number].end(RunEnd(2, "the first to say so"))
    three[1].end(RunEnd(76, "what followed"))
    assert [each.ended() for each in three] == [RunEnd(2, "the first to say so")] * 3


def test_a_machine_that_waits_for_its_ranks_to_end_is_not_missed(three):
    for _ in range(machines.SILENT * 3):
        three[1].beat()
        assert [three[0].lost(), three[2].lost()] == [None, None]


def test_machines_are_done_when_all_are_and_miss_those_that_are_not(three):
    assert not three[0].done()
    for _ in range(machines.SILENT + 2):
        found = [three[0].lost(), three[1].lost()]
        assert not three[0].done()
    assert found == [2, 2]
    assert not three[1].done()
    assert three[2].done()
    assert three[0].done()


def test_the_machine_with_the_store_leaves_last(three, monkeypatch):
    monkeypatch.setattr(machines, "BEAT", 0.01)
    left = []
    host = threading.Thread(target=lambda: (three[0].leave(hosts=True), left.append(0)))
    host.start()
    three[1].leave(hosts=False)
    three[2].beat()
    time.sleep(0.05)
    assert left == []
    three[2].leave(hosts=False)
    host.join(60)
    assert left == [0]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_machines_with_another_recipe_do_not_join(said):
    """A second run at the same place, or a command that is not the same on both machines."""
    request = LaunchRequest(1, 2, 2, "127.0.0.1", free_port())
    mine = {"run": {"output_dir": "runs/a"}, "loss": {"beta": 0.1}}
    first = machines.meet(request, mine, said.append)
    machines.meet(request, mine, said.append)
    with pytest.raises(RecipeError) as caught:
        machines.meet(request, {**mine, "run": {"output_dir": "runs/b"}}, said.append)
    assert str(caught.value).splitlines() == [
        f"machines with another recipe meet at {request.endpoint}:",
        '  run.output_dir: "runs/a" in the run there, "runs/b" in this one',
        "Give the same recipe with the same --set on every machine; another run needs another --rendezvous.",
    ]
    assert said == [f"waiting for 2 machines at {request.endpoint}"] * 3
    first.handler.shutdown()


#: One machine of a run: a launcher in a process of its own, whose ranks are programs as above.
MACHINE = """
import sys
from dpotrain.engine.launching import agent
from dpotrain.engine.launching.launch import launch
from dpotrain.engine.launching.processes import RankProcesses
from dpotrain.engine.launching.request import LaunchRequest

agent.ENDING_SECONDS = 0.5
port, fewest, most, *program = sys.argv[1:]
request = LaunchRequest(1, int(fewest), int(most), "127.0.0.1", int(port))
sys.exit(launch(request, RankProcesses(program), {}, lambda text: print(text, flush=True)))
"""


class OtherMachine:
    """Begun at once; ``output`` is what it said, once it has ended."""

    def __init__(self, folder: Path, code: str, port: int, fewest: int = 2, most: int = 2) -> None:
        words = [sys.executable, "-c", MACHINE, str(port), str(fewest), str(most), *program(folder, code)]
        self.process = subprocess.Popen(
            words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.output = ""

    def end(self) -> int:
        out, _ = self.process.communicate(timeout=120)
        self.output += out
        return self.process.returncode


def here(folder: Path, code: str, port: int, said: list[str], fewest: int = 2, most: int = 2) -> int:
    ranks = RankProcesses(program(folder, code))
    return launch(LaunchRequest(1, fewest, most, "127.0.0.1", port), ranks, {}, said.append)


@pytest.mark.soak
def test_an_error_on_one_machine_ends_the_other_with_its_code_and_message(tmp_path, said):
    """Before their ranks know each other, which one of them waits for."""
    port = free_port()
    code = "if rank == 0: time.sleep(600)\nprint('error: no such disk', file=sys.stderr)\nsys.exit(3)\n"
    other = OtherMachine(tmp_path, code, port)
    assert here(tmp_path, code, port, said) == 3
    assert other.end() == 3
    text = "\n".join([*said, other.output])
    assert text.count("process 1 on ") == 2
    assert text.count(" ended with exit code 3:\nerror: no such disk") == 2
    assert "does not answer any more" not in text
    assert len(starts(tmp_path, 0)) == len(starts(tmp_path, 1)) == 1


@pytest.mark.soak
def test_machines_that_end_at_different_times_end_well_and_say_nothing_more(tmp_path, said, monkeypatch):
    port = free_port()
    code = "time.sleep(4 * rank)\n"
    other = OtherMachine(tmp_path, code, port)
    assert here(tmp_path, code, port, said) == 0
    assert other.end() == 0
    assert sorted([said[-1], other.output.splitlines()[-1]]) == [
        "machine 1 of 2",
        "machine 2 of 2; its first process shows the run elsewhere",
    ]


@pytest.mark.soak
def test_a_spare_machine_says_so(tmp_path, said):
    port = free_port()
    code = "while not (folder / 'go').exists(): time.sleep(0.05)\n"
    other = OtherMachine(tmp_path, code, port, 1, 1)
    until(tmp_path / "0-0")
    threading.Timer(3.0, (tmp_path / "go").touch).start()
    assert here(tmp_path, "sys.exit(1)", port, said, 1, 1) == 0
    assert other.end() == 0
    assert said == [f"the run at 127.0.0.1:{port} has ended without this machine, which was a spare one"]


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


@pytest.mark.parametrize(
    ("reason", "kind", "text"),
    [
        (
            "",
            RunError,
            "fewer than 2 machines came to node1:29400 within 30 minutes.\nStart the same command on ",
        ),
        (
            "machine 2 of 2 does not answer any more",
            ProcessLostError,
            "machine 2 of 2 does not answer any more.\nFewer than 2 machines came to node1:29400 within 30 minutes to "
            "go on. The last checkpoint remains: --resume",
        ),
    ],
)
def test_a_lost_machine_that_nobody_replaces_is_no_wrong_command(reason, kind, text, monkeypatch, said):
    """The same command on other machines goes on, which exit code 76 says."""

    class NobodyComes(agents.RankAgent):
        def run(self):
            self.reason = reason
            raise RendezvousTimeoutError

    monkeypatch.setattr(launching, "RankAgent", NobodyComes)
    monkeypatch.setattr(
        launching, "meet", lambda *_: machines.Meeting(SimpleNamespace(shutdown=int), "", False)
    )
    with pytest.raises(kind) as caught:
        launch(LaunchRequest(1, 2, 2, "node1", 29400), RankProcesses([]), {}, said.append)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(text)


def test_a_connection_that_one_machine_alone_loses_is_no_lost_machine(said, monkeypatch):
    class Fails(agents.RankAgent):
        def run(self):
            raise RendezvousConnectionError

    monkeypatch.setattr(launching, "RankAgent", Fails)
    with pytest.raises(RendezvousConnectionError):
        launch(LaunchRequest(2), RankProcesses([]), {}, said.append)
