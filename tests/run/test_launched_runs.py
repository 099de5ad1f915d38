"""Runs of ``dpotrain run --processes 2``: what one process shows, saves and ends with, whatever befalls a rank."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.run.crashing import facts
from tests.run.launched import Launched
from tests.run.recipes import losses, project, run
from tests.run.test_cut_independence import LAUNCHERS
from tests.run.test_failing_ranks import FAST, summary
from tests.ui.terminals import OnTerminal

soak = pytest.mark.soak

#: In every start.
QUICK_WATCH = [[rank, None, *act] for rank, *act in FAST]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    recipe = project(tmp_path_factory.mktemp("launched"), adapter=True)
    recipe.write_text(recipe.read_text() + "\n[evaluation]\nevery = 3\n[checkpoints]\nevery = 2\n")
    return recipe


@pytest.fixture(scope="module")
def whole(recipe) -> Path:
    """The run of one process."""
    run(recipe)
    return recipe.parent / "run"


def assert_same(mine: Path, whole: Path) -> None:
    """Every step and evaluation once, with the losses of one process."""
    assert losses(mine) == pytest.approx(losses(whole), abs=1e-5)
    assert summary(mine)["status"] == "finished"
    assert (mine / "final").is_dir()


def test_a_signal_stops_it_with_a_checkpoint(recipe, tmp_path):
    """SIGTERM to the launcher alone, as from a batch system or Kubernetes."""
    launched = Launched(recipe, tmp_path / "run", acts=[[0, 0, "signal_after", 3, "SIGSTOP"]])
    launched.until(lambda: launched.state(0) == "T")
    os.kill(launched.process.pid, signal.SIGTERM)
    os.kill(launched.ranks()[0], signal.SIGCONT)
    assert launched.end() == 75, launched.output
    assert launched.output.count("step 1/") == 1
    assert launched.output.count("stopped: the run was stopped after step ") == 1
    assert "/run/recipe.toml --processes 2 --resume" in launched.output
    assert summary(tmp_path / "run")["status"] == "stopped"


@soak
def test_a_killed_rank_starts_all_again_and_nothing_is_lost(recipe, whole, tmp_path):
    """Of rank 0, which shows the run and saves; others are among those that are killed at random."""
    acts = [*QUICK_WATCH, [0, 0, "signal_after", 5, "SIGKILL"]]
    launched = Launched(recipe, tmp_path / "run", acts=acts)
    assert launched.end() == 0, launched.output
    assert "process 0 on " in launched.output
    assert "was killed by SIGKILL" in launched.output
    assert "the run resumes from its last checkpoint (restart 1 of 3)" in launched.output
    assert_same(tmp_path / "run", whole)


@soak
@pytest.mark.parametrize(
    ("rank", "place", "how", "code", "said"),
    [
        (1, "step", "raise", 1, "broken in the step"),
        (1, "loading", "raise", 1, "broken in the loading"),
        (1, "step", "memory", 1, "is out of memory (CUDA out of memory. Tried to allocate 20 MiB)"),
        (0, "step", "signal", 75, "the run was stopped after step "),
        (1, "saving", "signal", 75, "the run was stopped after step "),
    ],
)
def test_what_befalls_one_rank_ends_all_and_is_said_once(rank, place, how, code, said, recipe, tmp_path):
    before = int(place == "step")
    acts = [*QUICK_WATCH, [rank, None, "fails_in", place, how, before]]
    small = ["training.tokens_per_microbatch=1"] if how == "memory" else []
    words = [word for each in small for word in ("--set", each)]
    launched = Launched(recipe, tmp_path / "run", *words, acts=acts)
    assert launched.end() == code, launched.output
    shown = [line for line in launched.output.splitlines() if line.startswith(("error: ", "stopped: "))]
    assert len(shown) == 1, launched.output
    assert said in shown[0]
    if rank == 1 and code == 1 and how == "raise":
        assert "process 1 on " in shown[0]
    assert summary(tmp_path / "run")["status"] == ("stopped" if code == 75 else "failed")
    assert "restart" not in launched.output


def test_a_wrong_recipe_is_refused_once_and_before_any_process_starts(recipe, tmp_path):
    launched = Launched(recipe, tmp_path / "run", "--set", "training.epoch=2")
    assert launched.end() == 2
    assert launched.output.count("error: ") == 1
    assert "[training] epoch: there is no such key" in launched.output
    assert not (tmp_path / "run").exists()


@soak
def test_ctrl_c_in_a_terminal_stops_all_ranks_and_keys_work(recipe, tmp_path):
    code = "from dpotrain.cli import main; main(['run', *__import__('sys').argv[1:]], prog_name='dpotrain')"
    words = [str(recipe), "--processes", "2", "--set", f"run.output_dir={str(tmp_path / 'run')!r}"]
    with OnTerminal(code, *words, "--set", "training.epochs=5000", size=(100, 30)) as terminal:
        terminal.until("step 1")
        terminal.press("s")
        terminal.until(lambda _: list((tmp_path / "run" / "checkpoints").glob("step-*")))
        terminal.press("\x1a")
        terminal.until(lambda _: terminal.is_stopped())
        os.killpg(os.getpgid(terminal.pid), signal.SIGCONT)
        terminal.press("\x03")
        assert terminal.end() == 75
        text = terminal.screen.text
        terminal.assert_given_back()
    assert text.count("stopped: the run was stopped after step ") == 1
    assert "Ctrl-C again" not in text.replace("Ctrl-C again stops now", "")
    assert summary(tmp_path / "run")["status"] == "stopped"


@soak
def test_an_interrupt_of_the_whole_process_group_is_one(recipe, tmp_path):
    """``timeout -s INT``, an IDE or a CI job: it reaches each rank directly, and the launcher, which passes it on."""
    launched = Launched(recipe, tmp_path / "run", "--set", "training.epochs=5000")
    launched.until_step(2)
    os.killpg(launched.process.pid, signal.SIGINT)
    assert launched.end() == 75, launched.output
    assert launched.output.count("stopped: the run was stopped after step ") == 1
    assert summary(tmp_path / "run")["status"] == "stopped"


@soak
def test_ctrl_c_twice_ends_it_at_once(recipe, tmp_path):
    code = "from dpotrain.cli import main; main(['run', *__import__('sys').argv[1:]], prog_name='dpotrain')"
    words = [str(recipe), "--processes", "2", "--plain", "--set", f"run.output_dir={str(tmp_path / 'run')!r}"]
    with OnTerminal(code, *words, "--set", "training.epochs=5000") as terminal:
        terminal.until("step 1/")
        terminal.press("\x03")
        terminal.press("\x03")
        assert terminal.end() in (75, 130)  # the first may have been enough


@soak
@pytest.mark.parametrize("step", [0, 4])
def test_the_death_of_the_launcher_ends_its_ranks_and_resuming_loses_nothing(step, recipe, whole, tmp_path):
    """While they train, and before they have joined each other by its store."""
    launched = Launched(recipe, tmp_path / "run", acts=QUICK_WATCH)
    launched.until_step(step) if step else launched.until(lambda: len(launched.ranks()) == 2)
    os.kill(launched.process.pid, signal.SIGKILL)
    assert launched.end() == -signal.SIGKILL
    resumed = Launched(recipe, tmp_path / "run", "--resume")
    assert resumed.end() == 0, resumed.output
    assert_same(tmp_path / "run", whole)


#: What each process holds of the model, as overrides of the recipe.
LAYOUTS = {"replicated": (), "sharded": ('parallel.shard="all"', "adapter=false")}


@soak
@pytest.mark.timeout(3600)
def test_runs_that_are_killed_at_random_instants_lose_nothing(recipe, tmp_path):
    """One rank, all ranks, or the launcher; DPOTRAIN_KILLS is how many."""
    draw = random.Random(int(os.environ.get("DPOTRAIN_KILLS_SEED", 0)))
    left = int(os.environ.get("DPOTRAIN_KILLS", 2))
    expected = {}
    number = 0
    while left > 0:
        folder = tmp_path / f"run-{number}" / "run"
        number += 1
        layout = draw.choice(list(LAYOUTS))
        words = [word for each in LAYOUTS[layout] for word in ("--set", each)]
        if layout not in expected:
            whole = Launched(recipe, tmp_path / layout / "run", *words)
            assert whole.end() == 0, whole.output
            expected[layout] = facts(whole.run)
        words += ["--resume", "--max-restarts", "20"]
        code = None
        while code != 0:
            launched = Launched(recipe, folder, *words, acts=QUICK_WATCH)
            first, last = draw.randint(0, 8), draw.random()
            if left > 0:
                launched.until_step(first) if first else launched.until(launched.ranks)
                launched.until(lambda last=last: draw.random() < last / 10)
                ranks = list(launched.ranks().values())
                victims = draw.choice([[launched.process.pid], ranks, ranks[:1], ranks[1:]])
                for pid in victims:
                    left -= 1
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        left += 1
            code = launched.end()
            assert code in (0, -signal.SIGKILL), launched.output
        assert facts(folder) == expected[layout]
        assert json.loads((folder / "summary.json").read_text())["status"] == "finished"


@soak
def test_a_configuration_for_fsdp_shards_with_the_same_losses(tmp_path):
    recipe = project(tmp_path)
    run(recipe)
    launcher = ["--use_fsdp" if word == "--multi_gpu" else word for word in LAUNCHERS["accelerate launch"]]
    words = ["-m", "dpotrain", "run", str(recipe), "--set", f"run.output_dir={str(tmp_path / 'sharded')!r}"]
    done = subprocess.run(
        [sys.executable, "-m", *launcher, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = 'note: fsdp_sharding_strategy: FULL_SHARD of the accelerate configuration: parallel.shard="all"'
    assert done.stderr.count(said) == 1
    assert 'shard = "all"' in (tmp_path / "sharded" / "recipe.toml").read_text()
    assert losses(tmp_path / "sharded") == pytest.approx(losses(tmp_path / "run"), abs=1e-5)
