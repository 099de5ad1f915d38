"""Stopped anywhere, however it trains and in however many processes, a resumed run is the one that nobody stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from dpotrain.core.errors import ProcessLostError
from dpotrain.run.checkpoint import files as checkpoints
from tests.run.crashing import facts
from tests.run.recipes import losses, project
from tests.run.test_cut_independence import LAUNCHERS

STOPPED = 75

#: Another number of processes or another token budget adds the same numbers up in another order. A loss may then differ
#: by this much, the bar of the tests that no way of cutting a step changes it; and a weight by that much, in ten steps
#: of AdamW at a learning rate of 1e-3, which makes the most of a gradient that is nearly zero.
LOSS_ROUNDING, WEIGHT_ROUNDING = 1e-5, 1e-4

soak = pytest.mark.soak

#: After steps 3, 6 and 9.
MOVES = "reference.update={every=3, share=0.6}"

#: Of the tiny model, which ties its embeddings to its head.
GROUPS = (
    'optimizer.groups=[{match="*layers.1.*", lr=1e-4, weight_decay=0.1}, {match="*embed_tokens*", lr=3e-4}]'
)

#: How a run trains: whether with an adapter, and what else; and after which of its ten steps, in two epochs, it is
#: stopped: before the first, in the middle of an epoch, at its border, at the last step.
WAYS = {
    "full, stored reference": (False, [], (0, 5, 10)),
    "full, live reference": (False, ['reference.when="live"'], (2, 7)),
    "lora, live reference": (True, ['reference.when="live"'], (0, 5)),
    "lora, stored reference": (True, ['reference.when="precomputed"'], (2, 10)),
    "lora, accumulation": (True, ["training.tokens_per_microbatch=60"], (2, 5, 7)),
    "full, accumulation": (False, ["training.tokens_per_microbatch=60"], (7, 10)),
    "4-bit, live reference": (True, ['quantizer.use="bnb-4bit"', 'reference.when="live"'], (2, 10)),
    "4-bit, stored reference": (True, ['quantizer.use="bnb-4bit"', 'reference.when="precomputed"'], (0, 5)),
    "4-bit, moving reference": (True, ['quantizer.use="bnb-4bit"', MOVES], (3, 4)),
    "full, moving reference": (False, [MOVES, "training.tokens_per_microbatch=60"], (2, 3, 6)),
    "8-bit of torchao": (True, ['quantizer.use="torchao-int8"'], (3, 7)),
    "lora, compiled layers": (True, ["training.compile=true"], (4,)),
    "8-bit optimizer": (False, ['optimizer.use="adamw-8bit"'], (4,)),
    "moments in bfloat16, groups": (False, ['optimizer.state_dtype="bfloat16"', GROUPS], (4,)),
    "muon, groups": (False, ['optimizer.use="muon"', GROUPS], (4,)),
    "muon, lora": (True, ['optimizer.use="muon"', 'optimizer.groups=[{match="*lora_B*", lr=1e-2}]'], (7,)),
    "adafactor, groups": (False, ['optimizer.use="adafactor"', GROUPS], (4,)),
    "lion, groups": (False, ['optimizer.use="lion"', GROUPS], (4,)),
}
#: Trained weights, an adapter's and an optimizer of its own; the other kinds of state with the long tests.
QUICK = {"lora, accumulation", "8-bit optimizer"}


def recipe_of(folder: Path, adapter: bool, dropout: float = 0.2) -> Path:
    """A recipe whose every state matters: windows of metrics over stops, evaluations between them, dropout."""
    recipe = project(folder, adapter=adapter)
    text = recipe.read_text().replace("every = 1", "every = 3") + (
        f"dropout = {dropout}\n" if adapter else ""
    )
    recipe.write_text(text + "\n[evaluation]\nevery = 4\n[checkpoints]\nevery = 100\n")
    return recipe


def into(run: Path) -> str:
    return f"run.output_dir={str(run)!r}"


def differences(run: Path, whole: Path) -> list[str]:
    """What is not the same bit for bit: final weights, the last checkpoint's and its optimizer, lines of metrics."""
    mine, theirs = facts(run), facts(whole)
    files = ("final", "trained", "optimizer", "reference")
    wrong = [name for name in files if mine.get(name) != theirs.get(name)]
    if len(mine["metrics"]) != len(theirs["metrics"]):
        wrong.append(f"{len(mine['metrics'])} lines of metrics")
    for one, two in zip(mine["metrics"], theirs["metrics"], strict=False):
        if one != two:
            return [*wrong, f"{one} instead of {two}"]
    return wrong


def stops_at(step: int, rank: int | None = None) -> list:
    """The act that stops a run, of one process or by way of one rank."""
    act = ["signal_after", step, "SIGTERM"]
    return act if rank is None else [rank, *act]


def saved(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


@pytest.mark.parametrize("way", [way if way in QUICK else pytest.param(way, marks=soak) for way in WAYS])
def test_stopped_anywhere_it_ends_in_the_same_bits(way, forked, tmp_path):
    """TRAPS: resume of weights only; token counters reset; samples skipped at the border of an epoch."""
    adapter, settings, stops = WAYS[way]
    recipe = recipe_of(tmp_path, adapter)
    assert forked.run(recipe, settings).code == 0
    run = [*settings, into(tmp_path / "stopped")]
    for stop in stops:
        # The clock stops it where no step has been taken.
        more, acts = ([], [stops_at(stop)]) if stop else (["run.max_minutes=1e-9"], [])
        ended = forked.run(recipe, [*run, *more], acts=acts)
        assert ended.code == STOPPED, ended.output
        assert f"stopped after step {stop} " in ended.told
    assert forked.run(recipe, run).code == 0
    assert differences(tmp_path / "stopped", tmp_path / "run") == []


@pytest.mark.soak
def test_resumed_ten_times_it_ends_in_the_same_bits(forked, tmp_path):
    recipe = recipe_of(tmp_path, adapter=True)
    assert forked.run(recipe).code == 0
    run = [into(tmp_path / "stopped")]
    for step in range(1, 11):
        assert forked.run(recipe, run, acts=[stops_at(step)]).code == STOPPED
    assert forked.run(recipe, run).code == 0
    assert differences(tmp_path / "stopped", tmp_path / "run") == []


def test_killed_while_the_reference_is_computed_it_ends_in_the_same_bits(forked, tmp_path):
    recipe = recipe_of(tmp_path, adapter=False)
    small = "training.tokens_per_microbatch=200"
    assert forked.run(recipe, [small, "run.cache_dir=false"]).code == 0
    for cache in ("false", repr(str(tmp_path / "cache"))):
        run = [small, into(tmp_path / f"killed-{len(cache)}"), f"run.cache_dir={cache}"]
        for _ in range(2):
            assert forked.run(recipe, run, acts=[["die_in_reference", 2]]).code == -signal.SIGKILL
        assert forked.run(recipe, run).code == 0
        assert differences(tmp_path / f"killed-{len(cache)}", tmp_path / "run") == []


@pytest.mark.parametrize("adapter", [False, pytest.param(True, marks=soak)], ids=["full", "lora"])
def test_another_token_budget_or_number_of_processes_changes_no_more_than_rounding(adapter, forked, tmp_path):
    recipe = recipe_of(tmp_path, adapter, dropout=0.0)  # which every process draws for itself
    assert forked.run(recipe).code == 0
    whole = tmp_path / "run"
    changes = {
        "budget": (1, 1, ["training.tokens_per_microbatch=90"]),
        "more": (1, 2, []),
        "fewer": (2, 1, []),
    }
    for name, (before, after, settings) in changes.items():
        run = tmp_path / name
        stopped = forked.ranks(recipe, [into(run)], ranks=before, acts=[stops_at(4, rank=0)])
        assert [ended.code for ended in stopped] == [STOPPED] * before, stopped
        done = forked.ranks(recipe, [into(run), *settings], ranks=after)
        assert [ended.code for ended in done] == [0] * after, done
        assert losses(run) == pytest.approx(losses(whole), abs=LOSS_ROUNDING)
        mine, theirs = (load_file(*(folder / "final").glob("*.safetensors")) for folder in (run, whole))
        assert max(float((mine[key] - theirs[key]).abs().max()) for key in theirs) <= WEIGHT_ROUNDING


#: Two processes, as ``WAYS``; their dropout differs.
IN_TWO = {
    "full": (False, []),
    "lora, accumulation": (True, ["training.tokens_per_microbatch=60"]),
    "4-bit": (True, ['quantizer.use="bnb-4bit"']),
}


@pytest.fixture(
    scope="module",
    params=["lora, accumulation", *(pytest.param(way, marks=soak) for way in ("full", "4-bit"))],
)
def in_two(request, forked, tmp_path_factory) -> tuple[Path, list[str]]:
    """A recipe and settings that two processes have run, to the end."""
    adapter, settings = IN_TWO[request.param]
    recipe = recipe_of(tmp_path_factory.mktemp("two"), adapter)
    done = forked.ranks(recipe, settings)
    assert [ended.code for ended in done] == [0, 0], done
    return recipe, settings


def test_two_processes_stopped_and_resumed_end_in_the_same_bits(in_two, forked, tmp_path):
    """A signal to one rank stops both, which save once; so does a deadline that one of them thinks is over."""
    recipe, settings = in_two
    run = [*settings, into(tmp_path)]
    for step, how in (
        (0, {"by_rank": {1: ["run.max_minutes=1e-9"]}}),
        (3, {"acts": [stops_at(3, rank=1)]}),
        (5, {"acts": [[0, "signal_after", 5, "SIGUSR1"]]}),
        (7, {"acts": [stops_at(7, rank=0), stops_at(7, rank=1)]}),
    ):
        stopped = forked.ranks(recipe, run, **how)
        assert [ended.code for ended in stopped] == [STOPPED, STOPPED], stopped
        assert f"stopped after step {step} " in stopped[0].told
        assert saved(tmp_path)[-1] == f"step-{step:08d}"
        assert stopped[0].output.count("checkpoint step=") == 1
        assert json.loads((tmp_path / "summary.json").read_text())["status"] == "stopped"
    done = forked.ranks(recipe, run)
    assert [ended.code for ended in done] == [0, 0], done
    assert differences(tmp_path, recipe.parent / "run") == []


@soak
@pytest.mark.parametrize("killed", [pytest.param(0, marks=soak), 1])
def test_a_killed_rank_ends_the_others_and_the_run_goes_on(in_two, killed, forked, tmp_path):
    """TRAPS: a rank that waits in a collective until it times out."""
    recipe, settings = in_two
    run = [*settings, into(tmp_path)]
    acts = [[killed, "signal_after", 5, "SIGKILL"]]
    ended = forked.ranks(recipe, [*run, "checkpoints.every=2"], acts=acts)
    assert (ended[killed].code, ended[1 - killed].code) == (-signal.SIGKILL, ProcessLostError.exit_code)
    # That process 0 is gone is known by name: here it holds what all processes connect to.
    assert "has ended" in ended[1 - killed].told.splitlines()[0]
    assert ended[1 - killed].told.endswith("--resume continues from the last checkpoint.")
    # The main process may have been killed while it was writing the one of step 4 beside the steps.
    left = [path.name for path in checkpoints.complete(tmp_path / "checkpoints")]
    assert left == ["step-00000002", "step-00000004"] or (killed == 0 and left == ["step-00000002"])
    done = forked.ranks(recipe, run)
    assert [ended.code for ended in done] == [0, 0], done
    assert differences(tmp_path, recipe.parent / "run") == []


@soak
@pytest.mark.parametrize("in_two", ["lora, accumulation"], indirect=True)
def test_numbers_that_are_not_finite_on_one_rank_are_noticed_by_both(in_two, forked, tmp_path):
    recipe, settings = in_two
    run = [*settings, into(tmp_path / "run")]
    ended = forked.ranks(recipe, run, acts=[[1, "spoil", 4]])
    assert [rank.code for rank in ended] == [1, 1], ended
    for rank in ended:
        assert rank.told.startswith("step 4: the loss is nan and the gradient norm nan; nothing was updated.")
    assert saved(tmp_path / "run") == ["step-00000003"]
    pairs = (tmp_path / "run" / "nonfinite_pairs.jsonl").read_text().splitlines()
    assert len(pairs) == 5  # of both ranks, each once
    done = forked.ranks(recipe, run)
    assert [rank.code for rank in done] == [0, 0], done
    assert differences(tmp_path / "run", recipe.parent / "run") == []

    skipping = [*settings, into(tmp_path / "skipping"), 'training.on_nonfinite="skip"', "logging.every=1"]
    done = forked.ranks(recipe, skipping, acts=[[1, "spoil", 4]])
    assert [rank.code for rank in done] == [0, 0], done
    assert [number for number, loss in enumerate(losses(tmp_path / "skipping"), 1) if loss is None] == [4]


@soak
@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes of a launcher in /proc")
def test_under_a_launcher_a_killed_rank_and_a_signal_lose_nothing(forked, tmp_path):
    recipe = recipe_of(tmp_path, adapter=True)
    long = ["training.epochs=25", "logging.every=1", "checkpoints.every=5"]
    done = forked.ranks(recipe, long)
    assert [ended.code for ended in done] == [0, 0], done
    run = tmp_path / "launched"

    launcher = launch(recipe, [*long, into(run)])
    lines_of(run, 7)
    os.kill(ranks_of(launcher)[1], signal.SIGKILL)
    assert launcher.wait(300) != 0

    launcher = launch(recipe, [*long, into(run)])
    lines_of(run, len((run / "metrics.jsonl").read_text().splitlines()) + 7)
    launcher.terminate()
    assert launcher.wait(300) != 0
    assert json.loads((run / "summary.json").read_text())["status"] == "stopped"

    done = forked.ranks(recipe, [*long, into(run)])
    assert [ended.code for ended in done] == [0, 0], done
    assert differences(run, tmp_path / "run") == []


def launch(recipe: Path, overrides: list[str]) -> subprocess.Popen:
    command = [sys.executable, "-m", *LAUNCHERS["torchrun"], "-m", "dpotrain", "run", str(recipe), "--resume"]
    command += [word for override in overrides for word in ("--set", override)]
    return subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def ranks_of(launcher: subprocess.Popen) -> list[int]:
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    return [int(child) for child in children]


def lines_of(run: Path, count: int) -> None:
    """Wait until a run has written so many lines of metrics."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if (run / "metrics.jsonl").exists() and len(
            (run / "metrics.jsonl").read_bytes().splitlines()
        ) >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"{run} does not get on")
