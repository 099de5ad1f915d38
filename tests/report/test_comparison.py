"""Runs side by side: what differs, and what compares."""

import json

import pytest

from dpotrain.report.comparison import compare, short_names
from dpotrain.report.past_run import read_run
from dpotrain.ui.comparison import print_comparison
from tests.report.past_runs import past_run
from tests.ui.terminal_text import on_terminal


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    made = [
        past_run(folder / "base"),
        past_run(folder / "higher", seed=3, skill=0.3, recipe={"optimizer": {"lr": 1e-5}}),
        past_run(folder / "beta", seed=4, recipe={"loss": {"beta": 0.3}}, summary=False),
        past_run(folder / "fewer", seed=5, held_out=30),
    ]
    return [read_run(each) for each in made]


def test_recipes_differ_by_key_and_never_by_where_they_wrote(runs):
    found = compare(runs[:3])
    assert [(row.key, row.values) for row in found.recipe] == [
        ("loss.beta", (0.1, 0.1, 0.3)),
        ("optimizer.lr", (5e-6, 1e-5, 5e-6)),
    ]
    assert found.environment == ()


def test_shared_pairs_are_compared_one_by_one(runs):
    found = compare(runs[:2])
    (pair,) = found.pairs
    assert pair.counts.count == 60
    assert pair.counts.same_set
    assert pair.counts.only_second > pair.counts.only_first
    assert pair.counts.p_value < 0.5
    assert found.caveats == ()


def test_what_does_not_compare_is_said(runs):
    other_beta = compare([runs[0], runs[2]]).caveats
    assert other_beta == (
        "beta is killed: its numbers are of step 200, not of a whole run.",
        "loss.beta differs: losses, rewards and margins are on other scales and do not compare. Accuracies do, where "
        "the reference is the same.",
    )
    assert compare([runs[0], runs[3]]).caveats == (
        "The evaluation sets of base and fewer differ, so their accuracies do not compare; the 30 pairs that both "
        "scored do.",
    )


def test_other_data_and_no_shared_pair_are_said(runs, tmp_path):
    other = past_run(tmp_path / "other")
    report = json.loads((other / "data_report.json").read_text())
    (other / "data_report.json").write_text(json.dumps(report | {"fingerprints": {"train": "xyz"}}))
    for path in (other / "evaluations").iterdir():
        path.unlink()
    caveats = compare([runs[0], read_run(other)]).caveats
    assert caveats[0].startswith("The training data differs")
    assert caveats[1].endswith("differ: their evaluations do not compare.")


def test_names_are_as_short_as_they_can_be(tmp_path):
    assert short_names([tmp_path / "a" / "x", tmp_path / "b" / "x"]) == ("a/x", "b/x")
    assert short_names([tmp_path / "x", tmp_path / "x"]) == ("x (1)", "x (2)")
    assert short_names([tmp_path / "sweep" / "one", tmp_path / "sweep" / "two"]) == ("one", "two")


def test_as_json_it_has_all_of_it(runs):
    found = json.loads(json.dumps(compare(runs).as_json(), allow_nan=False))
    assert [run["name"] for run in found["runs"]] == ["base", "higher", "beta", "fewer"]
    assert found["recipe"]["optimizer.lr"] == [5e-6, 1e-5, 5e-6, 5e-6]
    assert [pair["second"] for pair in found["paired"]] == ["higher", "beta", "fewer"]


@pytest.mark.parametrize("width", [120, 60, None])
def test_it_is_what_a_person_reads(runs, width, snapshot):
    text = on_terminal(lambda console: print_comparison(compare(runs[:3]), console), width)
    snapshot(f"compare_{width or 'file'}.txt", text)
