"""All runs below a folder."""

import json
import math
import os

import pytest

from dpotrain.core.errors import RecipeError
from dpotrain.report.listing import ORDERS, list_run, list_runs
from dpotrain.ui.runs_table import print_runs
from tests.report.past_runs import past_run
from tests.ui.terminal_text import on_terminal


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    past_run(folder / "old", seed=1)
    past_run(folder / "deep" / "inside" / "newer", seed=2, skill=0.5, steps=300)
    past_run(folder / "killed", seed=3, summary=False)
    past_run(folder / "old" / "hub" / "copy")
    (folder / "no run").mkdir()
    (folder / "recipe.toml").write_text("")
    for age, name in enumerate(("killed", "deep/inside/newer", "old")):
        for path in (folder / name).iterdir():
            os.utime(path, (1e9 - 1000 * age, 1e9 - 1000 * age))
    return folder


def names(folder, runs):
    return [run.path.relative_to(folder).as_posix() for run in runs]


def test_the_newest_comes_first_and_nothing_inside_a_run_is_listed(folder):
    assert names(folder, list_runs(folder)) == ["killed", "deep/inside/newer", "old"]
    assert names(folder / "old", list_runs(folder / "old")) == ["."]


def test_a_line_has_state_numbers_and_interval(folder):
    killed, newer, old = list_runs(folder)
    assert (killed.state, newer.state) == ("killed", "finished")
    assert (newer.step, newer.total_steps, newer.model, newer.seconds) == (300, 300, "org/tiny-chat", 752.0)
    assert math.isnan(killed.seconds)
    assert old.pairs == 60
    low, high = old.interval
    assert low < old.accuracy < high
    json.dumps([run.as_json() for run in (killed, newer, old)], allow_nan=False)


def test_runs_are_sorted_by_anything_the_best_first(folder):
    found = {order: list_runs(folder, order) for order in ORDERS}
    losses, accuracies = ([getattr(run, key) for run in found[key]] for key in ("loss", "accuracy"))
    assert losses == sorted(losses)
    assert accuracies == sorted(accuracies, reverse=True)
    assert names(folder, found["name"]) == ["deep/inside/newer", "killed", "old"]
    assert names(folder, found["step"])[0] == "deep/inside/newer"
    assert names(folder, found["duration"])[-1] == "killed", "what is not known comes last"
    assert all(len(runs) == 3 for runs in found.values())


def test_the_last_records_are_found_however_long_the_file_is(folder, tmp_path):
    run = past_run(tmp_path / "long")
    train = '{"kind": "train", "step": 9000, "loss": 0.25}\n'
    with (run / "metrics.jsonl").open("a") as file:
        file.write(train * 3000)
    listed = list_run(run)
    assert (listed.train_loss, listed.step) == (0.25, 9000)
    assert not math.isnan(listed.accuracy)


def test_a_run_that_has_logged_nothing_is_listed(tmp_path):
    run = tmp_path / "begun"
    (run / "checkpoints").mkdir(parents=True)
    (run / "run.log").write_text("")
    (listed,) = list_runs(tmp_path)
    assert (listed.state, listed.step, listed.model) == ("killed", 0, "")


def test_without_the_count_in_the_record_the_data_report_has_it(tmp_path):
    run = past_run(tmp_path / "earlier", held_out=40)
    metrics = (run / "metrics.jsonl").read_text().replace(', "pairs": 40', "")
    (run / "metrics.jsonl").write_text(metrics)
    assert list_run(run).pairs == 40


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="is not a folder"):
        list_runs(tmp_path / "absent")


@pytest.mark.parametrize("width", [120, 80, None])
def test_the_table_is_what_a_person_reads(folder, width, snapshot):
    runs = list_runs(folder)
    text = on_terminal(lambda console: print_runs(folder, runs, console, now=1e9 + 100), width)
    snapshot(f"list_{width or 'file'}.txt", text)
    assert "holds no run" in on_terminal(lambda console: print_runs(folder, [], console), 80)
