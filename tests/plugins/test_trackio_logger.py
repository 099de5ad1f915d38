"""The real Trackio with its local store; what it wrote is read back with Trackio's own reader."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trackio")

from dpotrain_plugins.loggers.trackio import TrackioLogger
from tests.plugins.logging_run import SECRET, begun, ended, evaluation, logged, made_up_run, samples, train
from tests.plugins.offline import network_of
from tests.plugins.serving import Handler, serving
from tests.plugins.trackio_files import config, kept_id, rows


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch) -> Path:
    """Trackio reads once where its store is, as it is imported."""
    from trackio import sqlite_storage, utils

    folder = tmp_path / "trackio-store"
    monkeypatch.setattr(utils, "TRACKIO_DIR", folder)
    monkeypatch.setattr(sqlite_storage, "TRACKIO_DIR", folder)
    monkeypatch.delenv("TRACKIO_STORAGE_MODE", raising=False)
    return folder


def _logger(**options: Any) -> TrackioLogger:
    return TrackioLogger(TrackioLogger.Options(**options))


def _logged(folder: Path, status: str = "finished", **options: Any) -> list[str]:
    return logged(_logger(**options), folder, status)


def test_metrics_keep_their_names_and_the_axis_is_the_step(tmp_path):
    notes = _logged(tmp_path / "run")
    *logged, summary = rows("dpotrain", tmp_path / "run")
    trained = {"rewards/margins": 0.25, "learning_rate": 1e-6}
    assert logged == [
        {"step": 0, "eval/loss": 0.69, "eval/rewards/accuracies": 0.75},
        {"step": 2, "loss": 0.5, **trained},
        {"step": 4, "loss": 0.4, **trained},
        {"step": 4, "eval/loss": 0.6, "eval/rewards/accuracies": 0.75},
    ]
    assert (summary["step"], summary["summary/eval_best/loss"]) == (4, 0.58)
    assert summary["summary/demo/preferred_after"] == 0.96
    assert summary["summary/tokens_per_second"] == 700.0
    assert notes == ['trackio logs to files; look at them with: trackio show --project "dpotrain"']


@pytest.mark.parametrize("status", ["finished", "stopped", "failed"])
def test_the_recipe_the_plugins_and_how_it_ended_are_the_config(tmp_path, status):
    _logged(tmp_path / "run", status, project="p", group="g")
    found = config("p", tmp_path / "run")
    assert found["model"] == {"use": "transformers", "name": "tiny"}
    assert (found["optimizer"], found["plugins"][0]["selected"]) == ({"lr": 5e-6}, ["loss dpo"])
    assert (found["status"], found["_Group"]) == (status, "g")
    assert "_Username" not in found


def test_the_run_is_called_like_its_folder_unless_it_has_a_name(tmp_path):
    from trackio import SQLiteStorage

    _logged(tmp_path / "first")
    _logged(tmp_path / "second", name="other")
    assert set(SQLiteStorage.get_runs("dpotrain")) == {"first", "other"}


def test_a_resumed_run_goes_on_and_no_step_is_there_twice(tmp_path):
    begun(_logger(), tmp_path, evaluation(0), train(1, 0.9), train(2, 0.8), train(3, 0.7))
    assert config("dpotrain", tmp_path)["status"] == "running"
    resumed = begun(_logger(), tmp_path, train(3, 0.7), train(4, 0.6), evaluation(4), resumed_from=2)
    resumed.finish(ended(tmp_path))
    found = rows("dpotrain", tmp_path)
    assert [(row["step"], row["loss"]) for row in found if "loss" in row] == [
        (1, 0.9),
        (2, 0.8),
        (3, 0.7),
        (4, 0.6),
    ]
    assert [row["step"] for row in found if "eval/loss" in row] == [0, 4]
    assert config("dpotrain", tmp_path)["status"] == "finished"


def test_two_runs_of_one_name_stay_two(tmp_path):
    _logged(tmp_path / "one", name="same")
    _logged(tmp_path / "two", name="same")
    assert kept_id(tmp_path / "one") != kept_id(tmp_path / "two")
    assert len(rows("dpotrain", tmp_path / "one")) == len(rows("dpotrain", tmp_path / "two")) == 5


def test_samples_are_a_table_of_their_step_which_a_resumed_run_does_not_repeat(tmp_path):
    first = begun(_logger(), tmp_path, evaluation(0))
    first.log_text(samples(0))
    first.log_text(samples(2))
    resumed = begun(_logger(), tmp_path, resumed_from=1)
    resumed.log_text(samples(2))
    tables = [(row["step"], row["samples"]) for row in rows("dpotrain", tmp_path) if "samples" in row]
    assert [step for step, _ in tables] == [0, 2]
    assert tables[0][1] == {
        "_type": "trackio.table",
        "_value": list(samples(0).rows),
    }


def test_numbers_that_are_not_finite_are_read_back(tmp_path):
    begun(_logger(), tmp_path, train(1, math.nan), train(2, math.inf), train(3, -math.inf))
    nan, *rest = [row["loss"] for row in rows("dpotrain", tmp_path)]
    assert math.isnan(nan)
    assert rest == [math.inf, -math.inf]


def test_no_text_of_the_data_and_no_command_line_is_written(tmp_path, store, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["dpotrain", "run", "recipe.toml", "--set", f"model.token={SECRET}"])
    _logged(tmp_path / "run", "failed")
    files = [path for path in (*store.rglob("*"), *(tmp_path / "run").rglob("*")) if path.is_file()]
    assert any(path.suffix == ".db" for path in files)
    assert [path.name for path in files if SECRET.encode() in path.read_bytes()] == []


def test_on_a_network_file_system_it_writes_what_trackio_imports_there(tmp_path, store, monkeypatch):
    monkeypatch.setenv("TRACKIO_STORAGE_MODE", "jsonl")
    _logged(tmp_path / "run")
    lines = [json.loads(line) for path in sorted(store.rglob("*.jsonl")) for line in path.open()]
    assert [line["step"] for line in lines] == [0, 2, 4, 4, 4]
    assert lines[1]["metrics"]["loss"] == 0.5
    assert not list(store.rglob("*.db"))


def test_a_run_of_the_surrounding_program_is_left_alone(tmp_path):
    from trackio import context_vars

    _logged(tmp_path)
    assert context_vars.current_run.get() is None
    assert context_vars.current_project.get() is None


def test_nothing_goes_over_the_network_without_a_space(tmp_path):
    """``trackio.init`` would ask the hub whose token it is."""
    told = {"HF_TOKEN": "hf_aBcDeFgHiJkLmNoPqRsT", "TRACKIO_DIR": str(tmp_path / "store")}
    assert network_of("trackio", "TrackioLogger", tmp_path / "run", **told) == []
    assert list((tmp_path / "store").glob("*.db"))


class _Space(Handler):
    """Answers as a Space with Trackio does, and keeps what it is told."""

    told: list[tuple[str, dict[str, Any]]]

    def get(self, body: bytes) -> None:
        self.answer({"api_version": 1})

    def post(self, body: bytes) -> None:
        self.told.append((self.path, json.loads(body)["kwargs"]))
        self.answer({"data": None})


def test_a_space_is_sent_every_record(tmp_path, store, monkeypatch):
    from trackio import remote_client

    told: list[Any] = []
    with serving(type("Space", (_Space,), {"told": told})) as place:
        monkeypatch.setattr(remote_client, "_space_id_to_url", lambda space: f"http://{place}/")
        notes = _logged(tmp_path / "run", space_id="you/space")
        diverged = _logger(space_id="you/space")
        diverged.start(made_up_run(tmp_path / "diverged"))
        diverged.log(train(1, math.nan))
    assert notes == ["trackio: https://huggingface.co/spaces/you/space"]
    assert {path for path, _ in told} == {"/api/bulk_log"}
    entries = [entry for _, kwargs in told for entry in kwargs["logs"]]
    assert entries.pop()["metrics"]["loss"] == "NaN"
    assert [entry["step"] for entry in entries] == [0, 2, 4, 4, 4]
    assert entries[0]["config"]["optimizer"] == {"lr": 5e-6}
    assert entries[-1]["config"]["status"] == "finished"
    assert SECRET not in json.dumps(told)
    assert not store.exists()
