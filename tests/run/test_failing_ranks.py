"""What one of two ranks meets: an error ends both, with its message; too little memory or a signal is agreed upon."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dpotrain.core.errors import ProcessLostError
from tests.run.forked import ROOT
from tests.run.recipes import losses, project
from tests.run.test_cut_independence import LAUNCHERS
from tests.run.test_resume_matrix import into

soak = pytest.mark.soak

#: Fast, without being so fast that a busy machine passes for a dead rank.
FAST = [[rank, "watches_fast"] for rank in (0, 1)]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    recipe = project(tmp_path_factory.mktemp("ranks"), adapter=True)
    recipe.write_text(recipe.read_text() + "\n[evaluation]\nevery = 3\n[checkpoints]\nevery = 2\n")
    return recipe


def summary(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text())


FAILURES = [
    (1, "step", "raise"),
    (0, "step", "exit"),
    *(
        (rank, place, how)
        for place in ("step", "evaluation", "saving", "result", "loading")
        for rank, how in ((0, "raise"), (1, "exit"))
    ),
]
QUICK = {(1, "step", "raise")}


@pytest.mark.parametrize(
    ("rank", "place", "how"), [pytest.param(*each, marks=[soak] * (each not in QUICK)) for each in FAILURES]
)
def test_a_rank_that_fails_ends_the_other_with_its_own_message(rank, place, how, recipe, forked, tmp_path):
    acts = [*FAST, [rank, "fails_in", place, how, int(place == "step")]]
    ended = forked.ranks(recipe, [into(tmp_path), "training.steps=4"], acts=acts)
    assert ended[rank].code == (1 if how == "raise" else 9), ended
    other = ended[1 - rank]
    assert other.code == (1 if how == "raise" else ProcessLostError.exit_code), ended
    what = f"broken in the {place}" if how == "raise" else ""
    assert what in ended[rank].output
    if how == "raise":
        assert f"process {rank} on " in other.told
        assert what in other.told
    else:  # nobody knows why
        assert "has ended" in other.told
    if rank == 1 or how == "raise":
        assert summary(tmp_path)["status"] == "failed"
        assert what in summary(tmp_path)["error"]


@pytest.mark.parametrize("how", ["raise", pytest.param("exit", marks=soak)])
@pytest.mark.parametrize("rank", [pytest.param(0, marks=soak), 1])
def test_a_rank_that_waits_for_its_device_is_ended_too(rank, how, recipe, forked, tmp_path):
    """Its main thread sees neither signals nor errors of an exchange."""
    acts = [*FAST, [rank, "fails_in", "clipping", how], [1 - rank, "hangs_in", "clipping"]]
    ended = forked.ranks(recipe, [into(tmp_path)], acts=acts)
    codes = [1, 1] if how == "raise" else [9, ProcessLostError.exit_code]
    assert [ended[rank].code, ended[1 - rank].code] == codes, ended
    said = "broken in the clipping" if how == "raise" else "it has ended without a message"
    assert f"process {rank}" in ended[1 - rank].told
    assert said in ended[1 - rank].told
    if rank == 1:
        assert said in summary(tmp_path)["error"]


#: What a launcher starts; the second rank fails in the middle of a step, and the first may wait for its device by then.
LAUNCHED = """
import os, sys
from tests.run import acts

if os.environ["RANK"] == "1":
    acts.fails_in("clipping", "raise")
elif sys.argv[1]:
    acts.hangs_in(sys.argv[1])
from dpotrain.cli import main

main(sys.argv[2:], prog_name="dpotrain")
"""


@soak
@pytest.mark.parametrize("waits", ["", "clipping"])
def test_under_a_launcher_which_sends_signals_the_message_is_the_failed_rank_s(waits, recipe, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(LAUNCHED)
    words = ["run", str(recipe), "--set", into(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-m", *LAUNCHERS["torchrun"], str(script), waits, *words],
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    assert "broken in the clipping" in done.stdout + done.stderr
    assert summary(tmp_path / "run")["status"] == "failed"
    assert "broken in the clipping" in summary(tmp_path / "run")["error"]


def test_memory_that_runs_out_on_one_rank_makes_both_do_the_step_again(recipe, forked, tmp_path):
    large = ["training.pairs_per_step=10"]
    assert forked.run(recipe, [*large, into(tmp_path / "one")]).code == 0
    acts = [[1, "fails_in", "step", "memory", 0]]
    ended = forked.ranks(recipe, [*large, into(tmp_path / "two")], acts=acts)
    assert [each.code for each in ended] == [0, 0], ended
    assert "memory ran out in step 1: it was done again" in ended[0].output
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)


@soak
def test_a_pair_that_does_not_fit_on_one_rank_ends_both(recipe, forked, tmp_path):
    acts = [*FAST, [1, "fails_in", "step", "memory"]]
    ended = forked.ranks(recipe, [into(tmp_path), "training.tokens_per_microbatch=1"], acts=acts)
    assert [each.code for each in ended] == [1, 1], ended
    for each in ended:
        assert "is out of memory (CUDA out of memory. Tried to allocate 20 MiB)" in each.told
        assert "Lower training.tokens_per_microbatch" in each.told


@pytest.mark.parametrize(
    ("place", "before", "step"),
    [
        ("step", 3, 1),
        pytest.param("evaluation", 0, 0, marks=soak),
        pytest.param("loading", 0, None, marks=soak),
    ],
)
def test_a_signal_to_one_rank_in_the_middle_stops_both(place, before, step, recipe, forked, tmp_path):
    """Between micro-batches: a step may take longer than a batch system waits."""
    acts = [*FAST, [1, "fails_in", place, "signal", before]]
    small = "training.tokens_per_microbatch=60"
    ended = forked.ranks(recipe, [into(tmp_path), small], acts=acts)
    assert [each.code for each in ended] == [75, 75], ended
    assert summary(tmp_path)["status"] == "stopped"
    if step is None:
        assert "SIGTERM before the first step; nothing is lost" in ended[0].told
    else:
        assert f"stopped after step {step} " in ended[0].told


def test_processes_with_different_recipes_are_refused_with_the_keys(recipe, forked, tmp_path):
    """A variable in the command that differs on each: they would train a mixture of both."""
    apart = {0: ["loss.beta=0.1", "parallel.context=2"], 1: ["loss.beta=0.9"]}
    ended = forked.ranks(recipe, [into(tmp_path)], by_rank=apart)
    assert [each.code for each in ended] == [2, 2], ended
    host = socket.gethostname()
    for each in ended:
        assert each.told.splitlines() == [
            "the processes of this run have different recipes:",
            f"  loss.beta: 0.1 in process 0 on {host}, 0.9 in process 1 on {host}",
            f"  parallel.context: 2 in process 0 on {host}, 1 in process 1 on {host}",
            "Give every process the same recipe with the same --set.",
        ]
    assert not (tmp_path / "metrics.jsonl").exists()
