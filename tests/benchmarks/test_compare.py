"""The comparison says what it measured, and what it could not."""

import io
import json
import statistics
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tests.benchmarks.compare import compare, main
from tests.benchmarks.sides import Side, SideFailed, model_source
from tests.benchmarks.tables import show
from tests.benchmarks.workload import Workload

ARGUMENTS = [
    *("--pairs", "6", "--pairs-per-step", "2", "--epochs", "2", "--precision", "fp32", "--rounds", "1"),
    *("--prompt-tokens", "60", "--chosen-tokens", "30", "--rejected-tokens", "40", "--spread", "0"),
    *("--set", "training.tokens_per_microbatch=200", "--side", "trl=/nowhere/python"),
]


measured = pytest.mark.soak


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    out = tmp_path_factory.mktemp("benchmark") / "result.json"
    assert main([*ARGUMENTS, "--out", str(out)]) == 0
    return json.loads(out.read_text(encoding="utf-8"))


@measured
def test_everything_that_decides_the_figures_is_in_the_result(result):
    assert result["command"][-len(ARGUMENTS) - 2 : -2] == ARGUMENTS
    assert result["workload"]["model"] == model_source("demo")
    assert result["overrides"] == ["training.tokens_per_microbatch=200"]
    machine, side = result["facts"]["machine"], result["sides"]["dpotrain"]["rounds"][0]
    assert machine["cpu"] or machine["gpu"]
    assert side["threads"] == machine["threads"] > 0
    assert {"dpotrain", "torch", "transformers"} <= set(side["versions"])


@measured
def test_synthetic_pairs_have_the_lengths_that_were_asked_for(result):
    mean = result["facts"]["mean_tokens"]
    # What the demo's chat template adds is one to three tokens.
    for part, asked in (("prompt", 60), ("chosen", 30), ("rejected", 40)):
        assert mean[part] == pytest.approx(asked, rel=0.2)


@measured
def test_the_losses_are_those_of_every_step(result):
    (side,) = result["sides"]["dpotrain"]["rounds"]
    assert len(side["losses"]) == len(side["step_ends"]) == len(side["step_seconds"]) == 6
    assert side["losses"][0] == pytest.approx(0.693147, abs=1e-4)


@measured
def test_speeds_are_work_over_wall_time_from_the_end_of_the_first_step(result):
    (side,) = result["sides"]["dpotrain"]["rounds"]
    summary = {name: each["median"] for name, each in result["sides"]["dpotrain"]["summary"].items()}
    seconds = side["step_ends"][-1] - side["step_ends"][0]
    pairs = result["facts"]["pairs"]
    tokens = 2 * sum(pair["tokens"] for pair in pairs) - sum(pair["tokens"] for pair in pairs[:2])
    assert summary["pairs_per_second"] == pytest.approx(10 / seconds)
    assert summary["tokens_per_second"] == pytest.approx(tokens / seconds)
    assert seconds >= sum(side["step_seconds"][1:]) * 0.99
    # Two epochs of a LoRA: the reference comes before training.
    assert not side["live_reference"]
    assert summary["reference_seconds"] > 0
    assert summary["first_epoch_pairs_per_second"] > 0
    assert summary["later_epochs_pairs_per_second"] > 0
    assert summary["share_of_matrix_product_rate"] > 0
    assert summary["peak_resident_mb"] > 100


@measured
def test_the_phases_make_up_the_step(result):
    seconds = dict(result["phases_seconds_per_step"])
    whole = seconds.pop("step in all")
    assert sum(seconds.values()) == pytest.approx(whole)
    assert all(each >= -1e-4 for each in seconds.values())
    assert {"data", "reference", "forward", "backward", "optimizer", "rest", "between steps"} == set(seconds)
    assert seconds["forward"] + seconds["backward"] > 0


@measured
def test_a_missing_trl_is_told(result):
    assert "/nowhere/python cannot be run" in result["missing"]["TRL"]
    assert "TRL: not measured: /nowhere/python" in shown(result)


@measured
def test_the_roofline_and_the_groups_are_those_of_the_step(result):
    seconds = result["phases_seconds_per_step"]
    rows = {row["part"]: row for row in result["roofline"]}
    # The reference is stored.
    assert list(rows) == ["forward", "backward", "optimizer"]
    flops = sum(pair["policy_flops"] for pair in result["facts"]["pairs"]) / 3
    assert rows["forward"]["flops"] + rows["backward"]["flops"] == pytest.approx(flops)
    for part, row in rows.items():
        assert row["seconds"] == seconds[part]
        assert row["bytes"] > 0
    groups = result["groups_seconds_per_step"]
    for part in ("forward", "backward"):
        assert groups[part]["products"] > 0
        assert groups[part]["attention"] > 0
    assert set(result["groups_share_of_matrix_product_rate"]) == {"products", "attention"}
    shows = shown(result)
    assert "GFLOP/s in matrix products" in shows
    assert "by what operators do" in shows


def test_an_interpreter_without_a_trainer_is_reported(tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E "$@"\n')
    python.chmod(0o755)
    assert Side("swift", str(python)).why_not() == f"{python} has no package 'swift'"
    assert (
        Side("trl", "/nowhere/python").why_not() == "/nowhere/python cannot be run: No such file or directory"
    )


def test_a_side_is_a_trainer_with_options_and_its_interpreter():
    side = Side.parse("trl+checkpointing+precompute=/env/bin/python")
    assert side == Side("trl", "/env/bin/python", ("checkpointing", "precompute"))
    assert side.title == "TRL, checkpointing, precompute"
    assert Side.parse("llamafactory=python").title == "LLaMA-Factory"
    assert Side.parse("trl=env/bin/python").python == str(Path("env/bin/python").absolute())
    assert Side.parse("trl=python").python == "python"


FACTS = {
    "pairs": [{"tokens": 10, "policy_flops": 300, "reference_flops": 100}] * 4,
    "matrix_product_flops_per_second": 1000.0,
    "mean_tokens": {"prompt": 4.0, "chosen": 3.0, "rejected": 3.0},
    "machine": {"cpu": "a cpu", "gpu": None, "threads": 1},
    "flops_formula": "a formula",
}
WORKLOAD = Workload("a model", "pairs.jsonl", 4, 2, epochs=1)


def side(seconds: float, **changed):
    return {
        "losses": [0.7, 0.6],
        "log_probs": [[-100.0, -90.0], [-80.0, -70.0]],
        "step_ends": [5.0, 5.0 + seconds],
        "reference_seconds": 0.0,
        "live_reference": True,
        "peak_memory_mb": {"resident": 100.0},
        **changed,
    }


def shown(result) -> str:
    written = io.StringIO()
    show(result, Console(width=160, file=written))
    return written.getvalue()


def test_sides_take_turns_and_medians_are_over_rounds():
    turns = []

    def dpotrain():
        turns.append("dpotrain")
        return side(1.0 + len(turns))

    def trl():
        turns.append("trl")
        return side(20.0)

    found = compare(WORKLOAD, FACTS, {"dpotrain": dpotrain, "TRL": trl}, rounds=3)
    assert turns == ["dpotrain", "trl"] * 3
    rates = [2 / seconds for seconds in (2.0, 4.0, 6.0)]
    assert found["dpotrain"]["summary"]["pairs_per_second"] == {
        "median": pytest.approx(statistics.median(rates)),
        "min": pytest.approx(min(rates)),
        "max": pytest.approx(max(rates)),
    }
    assert found["TRL"]["summary"]["model_flops_per_second"]["median"] == pytest.approx(800 / 20)
    text = shown({"model": "m", "workload": vars(WORKLOAD), "facts": FACTS, "sides": found, "missing": {}})
    assert "(0.333 to 1)" in text
    assert "5.00 x" in text  # 0.5 pairs a second to 0.1
    assert "TRL and dpotrain, step by step: losses at most 0.0e+00 apart" in text
    assert "the same work" in text


@pytest.mark.parametrize(
    ("changed", "reported"),
    [
        ({"losses": [0.7, 0.5]}, "losses at most 1.0e-01 apart"),
        ({"log_probs": [[-100.0, -90.0], [-80.0, -60.0]]}, "mean log-probs at most 1.4e-01 apart"),
        ({"losses": [0.7]}, "losses of other steps"),
    ],
)
def test_a_side_that_did_other_work_is_reported(changed, reported):
    sides = {"dpotrain": lambda: side(1.0), "TRL": lambda: side(1.0, **changed)}
    found = compare(WORKLOAD, FACTS, sides, rounds=1)
    assert not found["TRL"]["agreement"]["same_work"]
    text = shown({"model": "m", "workload": vars(WORKLOAD), "facts": FACTS, "sides": found, "missing": {}})
    assert reported in text
    assert "not the same work" in text


def test_a_side_that_fails_is_told_and_left_out_of_later_rounds():
    tries = []

    def failing():
        tries.append(1)
        raise SideFailed("out of memory")

    found = compare(WORKLOAD, FACTS, {"dpotrain": lambda: side(1.0), "TRL": failing}, rounds=2)
    assert len(tries) == 1
    assert len(found["dpotrain"]["rounds"]) == 2
    result = {"model": "m", "workload": vars(WORKLOAD), "facts": FACTS, "sides": found, "missing": {}}
    assert "TRL failed: out of memory" in shown(result)


def test_what_dpotrain_warned_of_is_shown():
    found = compare(WORKLOAD, FACTS, {"dpotrain": lambda: side(1.0, warnings=["pairs are padded"])}, rounds=1)
    result = {"model": "m", "workload": vars(WORKLOAD), "facts": FACTS, "sides": found, "missing": {}}
    assert "dpotrain warned: pairs are padded" in shown(result)


def test_a_side_that_took_other_pairs_is_told():
    found = compare(WORKLOAD, FACTS, {"TRL": lambda: side(1.0, step_ends=[1.0, 2.0, 3.0])}, rounds=1)
    assert "took 3 steps where an epoch has 2" in found["TRL"]["error"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--side", "axolotl=python"], "there is no side 'axolotl'; there are trl, llamafactory, swift"),
        (["--side", "swift+precompute=python"], "swift has no option 'precompute'; it has checkpointing"),
        (["--side", "trl"], "not of the form NAME[+OPTION...]=PYTHON"),
        (["--side", "trl=a", "--side", "trl=b"], "given twice"),
        (["--data", "nowhere.jsonl"], "there is no file"),
        (["--pairs", "4", "--pairs-per-step", "4"], "at least two"),
    ],
)
def test_what_cannot_be_measured_is_refused(given, told, capsys):
    with pytest.raises(SystemExit):
        main(given)
    assert told in capsys.readouterr().err
