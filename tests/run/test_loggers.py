"""Whole runs with loggers that hang, raise or draw random numbers: the run is what it is without them."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from dpotrain import hookimpl
from dpotrain.plugin.api import Logger
from dpotrain.plugin.runtime.manager import PluginManager
from tests.plugin.conftest import site
from tests.plugin.fakes import Offers
from tests.plugins import mlflow_files, trackio_files
from tests.plugins.tensorboard_files import scalars
from tests.plugins.wandb_files import history, of_kind, offline_folders, record_file
from tests.run.forked import Ended
from tests.run.noting import install_noting, noted, table
from tests.run.recipes import losses, project, run

__all__ = ["site"]


@pytest.fixture
def start(tmp_path, site, forked):
    """Runs a recipe to its end in a process of its own, with the noting logger installed."""
    install_noting(site)
    recipe = project(tmp_path)

    def run(*overrides: str, acts: Sequence[Sequence[object]] = ()) -> Ended:
        settings = [part for each in overrides for part in ("--set", each)]
        return forked.dpotrain("run", str(recipe), *settings, path=[site], acts=acts)

    return run


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def test_loggers_that_hang_or_raise_cost_the_run_nothing_and_the_process_ends(tmp_path, start):
    files = {name: tmp_path / f"{name}.jsonl" for name in ("start", "log", "finish", "raising", "sound")}
    tables = [table(files[method], hangs=method) for method in ("start", "log", "finish")]
    tables += [table(files["raising"], raises="log"), table(files["sound"])]
    ended = start(f"loggers=[{', '.join(tables)}]", "logging.patience=1.5")
    assert ended.code == 0, ended.err
    assert "did not let the process end" not in ended.err
    assert summary(tmp_path / "run")["status"] == "finished"
    assert len(losses(tmp_path / "run")) == 10
    label = 'logger "noting" of plugin "noting" (dpotrain-noting 3.0) is dropped: '
    said = [line.partition(label)[2] for line in ended.out.splitlines() if label in line]
    assert len(said) == 4
    for begins in (
        "start has not",
        "log of step 0 has not",
        "finish has not",
        "log of step 0 raised ConnectionError: gone",
    ):
        assert [line for line in said if line.startswith(begins)], begins
    assert ended.out.count(f"dpotrain sync {tmp_path / 'run'} --to noting") == 4
    heard = noted(files["sound"])
    assert [entry[0] for entry in heard] == ["start", *["log"] * 12, "finish"]
    assert "note: noting in sound.jsonl" in ended.out
    assert "is dropped" in (tmp_path / "run" / "run.log").read_text(encoding="utf-8")


def test_a_run_that_is_asked_to_stop_does_not_wait_for_a_logger_that_hangs(tmp_path, start):
    """A batch system that sent SIGTERM kills what does not end soon."""
    file = tmp_path / "stuck.jsonl"
    ended = start(
        f"loggers=[{table(file, hangs='log')}]", acts=[["hurry_after", 0.5], ["signal_after", 4, "SIGTERM"]]
    )
    assert ended.code == 75, ended.err
    assert summary(tmp_path / "run")["status"] == "stopped"
    assert "is dropped: log of step 0 and " in ended.out
    assert "calls more were not done 0.5 s after the end of the run" in ended.out


def test_ctrl_c_ends_the_wait_for_a_logger_and_the_summary_is_there(tmp_path, start):
    file = tmp_path / "stuck.jsonl"
    ended = start(
        f"loggers=[{table(file, hangs='finish')}]",
        "training.steps=2",
        acts=[["interrupt_after_saying", "waiting at most 120 s for the logger"]],
    )
    assert ended.code == 130, ended.err
    assert summary(tmp_path / "run")["status"] == "finished"


class Gambler(Logger):
    """Draws from Python's and numpy's global generators whenever it can."""

    name = "gambler"

    def start(self, run):
        self.draw()

    def log(self, record):
        self.draw()

    def finish(self, outcome):
        self.draw()

    @hookimpl
    def dpotrain_step_ended(self, step):
        self.draw()

    def draw(self):
        import random

        import numpy as np

        random.seed(random.random())
        np.random.seed(int(np.random.randint(2**31)))


def test_what_a_logger_draws_changes_nothing(tmp_path):
    """The run draws from torch's global generator alone: it has dropout here. A logger is told to leave that one be."""
    recipe = project(tmp_path, adapter=True)
    plugins = PluginManager.from_entry_points(extra=[Offers("casino", Gambler)])
    weights = []
    for name, loggers in (("without", "[]"), ("with", '[{use="gambler"}]')):
        folder = tmp_path / name
        overrides = [f"run.output_dir={json.dumps(str(folder))}", "adapter.dropout=0.3", f"loggers={loggers}"]
        run(recipe, *overrides, plugins=plugins)
        weights.append((folder / "final" / "adapter_model.safetensors").read_bytes())
    assert losses(tmp_path / "with") == losses(tmp_path / "without")
    assert weights[0] == weights[1]


def test_the_built_in_loggers_log_a_whole_run_from_their_threads(tmp_path, monkeypatch):
    for package in ("tensorboard", "mlflow", "trackio"):
        pytest.importorskip(package)
    wandb = pytest.importorskip("wandb")
    for name in list(os.environ):
        if name.startswith(("WANDB", "MLFLOW")):
            monkeypatch.delenv(name)
    tables = (
        'loggers=[{use="wandb", mode="offline"}, {use="tensorboard"}, {use="mlflow"}, '
        '{use="trackio", project="threads"}]'
    )
    try:
        run(project(tmp_path), "training.steps=3", tables)
        (folder,) = offline_folders(tmp_path / "run")
        rows = history(record_file(folder))
        (closed,) = of_kind(record_file(folder), "exit")
    finally:
        wandb.teardown()
    assert [row["_step"] for row in rows] == [0, 1, 2, 3]
    assert [row["loss"] for row in rows if "loss" in row] == losses(tmp_path / "run")
    assert closed.exit.exit_code == 0
    assert [step for step, _ in scalars(tmp_path / "run")["loss"]] == [1, 2, 3]
    assert mlflow_files.metrics(tmp_path / "run")["loss"] == list(
        enumerate(losses(tmp_path / "run"), start=1)
    )
    assert mlflow_files.the_run(tmp_path / "run").info.status == "FINISHED"
    logged = trackio_files.rows("threads", tmp_path / "run")
    assert [row["loss"] for row in logged if "loss" in row] == losses(tmp_path / "run")
    assert trackio_files.config("threads", tmp_path / "run")["status"] == "finished"
