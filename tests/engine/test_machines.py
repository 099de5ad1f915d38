"""Several machines: which are there, how a run ends on all of them, and which cannot join."""

import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch.distributed.elastic.rendezvous import RendezvousConnectionError, RendezvousTimeoutError

from dpotrain.core.errors import ProcessLostError, RecipeError, RunError
from dpotrain.engine.launching import agent as agents
from dpotrain.engine.launching import launch as launching
from dpotrain.engine.launching import machines
from dpotrain.engine.launching.launch import launch
from dpotrain.engine.launching.machines import Machines, RunEnd
from dpotrain.engine.launching.processes import RankProcesses
from dpotrain.engine.launching.request import LaunchRequest
from tests.engine.launched import program, starts, until
from tests.run.forked import ROOT


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
