"""Signals to a launcher, which reach every rank once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.engine.launched import until
from tests.run.forked import ROOT
from tests.ui.terminals import OnTerminal

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
