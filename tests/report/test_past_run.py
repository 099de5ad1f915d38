"""A run folder as one object: whole, running, killed, damaged, of an earlier version."""

import json
import math
import os
import socket

import pytest

from dpotrain.core.errors import RecipeError
from dpotrain.report.past_run import read_run
from dpotrain.report.run_json import run_as_json
from dpotrain.report.run_state import state_of
from tests.report.past_runs import past_run


def test_everything_that_a_run_leaves_is_read(tmp_path):
    run = read_run(past_run(tmp_path / "run"))
    assert (run.state, run.step, run.total_steps, run.model) == ("finished", 200, 200, "org/tiny-chat")
    assert run.problems == ()
    assert run.recipe["loss"]["beta"] == 0.1
    assert [record.step for record in run.evaluations] == [0, 50, 100, 150, 200]
    assert len(run.train) == 40
    assert [record.step for record in run.samples] == [0, 50, 100, 150, 200]
    assert len(run.margins.pairs) == 60
    assert sorted(run.margins.margins) == [0, 50, 100, 150, 200]
    assert run.data is not None
    assert run.data.evaluation_pairs == 60
    assert run.environment["packages"]["torch"] == "2.13.0"
    assert run.checkpoints == (200,)
    assert run.outcome is not None
    assert run.outcome.peak_memory_mb == 3220.0
    json.dumps(run_as_json(run), allow_nan=False)


def test_a_run_that_was_killed_is_read_up_to_there(tmp_path):
    folder = past_run(tmp_path / "run", summary=False)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 205, "lo')
    with (folder / "samples.jsonl").open("a") as file:
        file.write('{"step": 250, "samp')
    run = read_run(folder)
    assert (run.state, run.outcome, run.step) == ("killed", None, 200)
    assert run.problems == (), "a last line that is cut short is what a kill leaves, not damage"


def status(**values: object) -> dict[str, object]:
    here = {"state": "running", "pid": os.getpid(), "host": socket.gethostname(), "updated": 1000.0}
    return {**here, **values}


def test_a_run_runs_while_its_process_does(tmp_path):
    folder = past_run(tmp_path / "run", summary=False)
    (folder / "status.json").write_text(json.dumps(status(step=203, total_steps=400)))
    run = read_run(folder)
    assert (run.state, run.step, run.total_steps) == ("running", 203, 400)
    (folder / "status.json").write_text(json.dumps(status(pid=2**22 + 1)))
    assert read_run(folder).state == "killed"


def test_of_a_run_on_another_machine_the_last_sign_of_life_decides():
    assert state_of(None, status(host="elsewhere"), now=1060.0) == "running"
    assert state_of(None, status(host="elsewhere"), now=9000.0) == "killed"


def test_a_run_whose_summary_could_not_be_written_says_how_it_ended():
    assert state_of(None, status(state="interrupted")) == "interrupted"
    assert state_of(None, {}) == "killed"


def test_a_run_of_an_earlier_version_lacks_files_and_is_shown_without_them(tmp_path):
    folder = past_run(tmp_path / "run")
    for path in [*(folder / "evaluations").iterdir(), folder / "samples.jsonl", folder / "data_report.json"]:
        path.unlink()
    run = read_run(folder)
    assert run.state == "finished"
    assert run.margins.courses() == []
    assert (run.samples, run.data, run.problems) == ((), None, ())


def test_damaged_files_and_lines_are_named_and_the_rest_is_read(tmp_path):
    folder = past_run(tmp_path / "run")
    (folder / "data_report.json").write_text("{")
    (folder / "summary.json").write_text('{"status": 3}')
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    lines[3] = '{"kind": "train", "step": "three"}'
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    samples = (folder / "samples.jsonl").read_text().splitlines()
    samples[1] = '{"step": 50, "samples": 7}'
    (folder / "samples.jsonl").write_text("\n".join(samples) + "\n")
    run = read_run(folder)
    assert run.problems == (
        "summary.json is damaged: skipped",
        'metrics.jsonl:4 is no record: its step is "three"',
        "samples.jsonl: damaged line skipped: 2",
        "data_report.json is damaged: skipped",
    )
    assert len(run.records) == 44
    assert len(run.samples) == 4


def test_a_number_that_was_not_finite_is_none_and_comes_back_as_null(tmp_path):
    folder = past_run(tmp_path / "run")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 205, "loss": null}\n')
    run = read_run(folder)
    assert math.isnan(run.train[-1].metrics["loss"])
    assert run_as_json(run)["train"][-1]["loss"] is None


def test_a_run_that_was_moved_loads_from_where_it_is(tmp_path):
    folder = past_run(tmp_path / "run")
    moved = folder.rename(tmp_path / "moved")
    outcome = read_run(moved).outcome
    assert outcome is not None
    assert outcome.final == moved / "final"
    assert f'"{moved / "final"}"' in outcome.how_to_load


def test_what_is_no_run_folder_is_refused(tmp_path):
    (tmp_path / "recipe.toml").write_text("")
    for path in (tmp_path, tmp_path / "absent", tmp_path / "recipe.toml"):
        with pytest.raises(RecipeError, match="it is no run folder"):
            read_run(path)
