"""``dpotrain sync``: a run's records once more, to whoever missed them."""

import json
import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from dpotrain import load_recipe, train
from dpotrain.core.reporter import SilentReporter
from dpotrain.run.folder.lock import RunLock
from tests.cli.test_main import HEAVY, imported_by
from tests.plugin.fakes import install
from tests.plugins.tensorboard_files import scalars
from tests.plugins.wandb_files import history, of_kind, offline_folders, record_file
from tests.run.noting import install_noting, noted, table
from tests.run.recipes import project, records
from tests.support import dpotrain

#: A logger that counts.
OTHER = """
from dpotrain import hookimpl
from dpotrain.plugin.api import Logger

class Other(Logger):
    name, records = "other", 0
    def start(self, run): self.run = run
    def log(self, record): self.records += 1
    def finish(self, outcome): self.run.note(f"other has {self.records}")

dpotrain_loggers = hookimpl(lambda: [Other])
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The project of a run that had no loggers; its model and data have gone since."""
    folder = tmp_path_factory.mktemp("project")
    train(load_recipe(project(folder), ["training.steps=4"]), reporter=SilentReporter())
    shutil.rmtree(folder / "model")
    (folder / "pairs.jsonl").unlink()
    return folder


@pytest.fixture
def run(finished, site, tmp_path) -> Path:
    """A copy of the finished run folder, with the noting logger installed."""
    install_noting(site)
    shutil.copytree(finished / "run", tmp_path / "run")
    return tmp_path / "run"


def sync(run: Path, *arguments: str):
    return dpotrain("sync", str(run), *arguments)


def to(file: Path, **options: str) -> tuple[str, str]:
    return "--set", f"loggers=[{table(file, **options)}]"


def test_a_dropped_logger_gets_what_it_would_have_been_told_in_the_run(tmp_path, site):
    install_noting(site)
    live, again = tmp_path / "live.jsonl", tmp_path / "again.jsonl"
    tables = [table(live), table(again, raises="log")]
    overrides = ["training.steps=4", f"loggers=[{', '.join(tables)}]"]
    train(load_recipe(project(tmp_path), overrides), reporter=SilentReporter())
    again.unlink()
    result = sync(tmp_path / "run", "--set", "loggers.1.raises=''")
    assert result.exit_code == 0, result.output
    assert noted(again) == noted(live)[: len(noted(again))]
    assert [entry[0] for entry in noted(again)] == ["start", *["log"] * 6, "finish"]


def test_without_model_and_data_every_record_is_sent_in_order_and_how_the_run_ended(run, tmp_path):
    file = tmp_path / "notes.jsonl"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    result = sync(run, *to(file))
    assert result.exit_code == 0, result.output
    (_, facts), *logged, (_, status, steps, best, error) = noted(file)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [{"kind": kind, "step": step, **metrics} for _, kind, step, metrics in logged] == lines
    assert (status, steps, error) == ("finished", 4, "")
    assert best == json.loads((run / "summary.json").read_text())["best_evaluation"]
    assert (facts["total_steps"], facts["seed"], facts["resumed_from"]) == (4, 7, 0)
    assert (facts["train_pairs"], facts["eval_pairs"]) == (21, 2)
    assert facts["config"]["training"]["steps"] == 4
    assert "note: noting in notes.jsonl" in result.stdout
    assert (
        'logger "noting" of plugin "noting" (dpotrain-noting 3.0) has 6 records, to step 4, and how the run '
        "ended: finished" in result.stdout
    )
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_run_that_was_killed_failed_where_its_records_end(run, tmp_path):
    evaluations = [line["loss"] for line in records(run, "eval")]
    (run / "summary.json").unlink()
    with (run / "metrics.jsonl").open("a") as torn:
        torn.write('{"kind": "train", "st')
    file = tmp_path / "notes.jsonl"
    result = sync(run, *to(file))
    assert result.exit_code == 1
    assert f"{run / 'metrics.jsonl'}:7 is no record: it is cut short" in result.stderr
    *_, (_, status, steps, best, error) = noted(file)
    assert (status, steps, error) == ("failed", 4, "the run was killed: it left no summary")
    assert best["loss"] == min(evaluations)
    assert "note: the run was killed: it left no summary" in result.stdout


def test_damaged_lines_are_named_and_all_others_sent(run, tmp_path):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    lines[2] = lines[2][:20]
    lines[4] = lines[4].replace('"train"', '"trian"')
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    result = sync(run, *to(tmp_path / "notes.jsonl"))
    assert result.exit_code == 1
    assert f"error: {run / 'metrics.jsonl'}:3 is no record: it is not JSON\n" in result.stderr
    assert f'{run / "metrics.jsonl"}:5 is no record: its kind is "trian"\n' in result.stderr
    assert len(noted(tmp_path / "notes.jsonl")) == 2 + len(lines) - 2


@pytest.mark.parametrize("method", ["start", "log", "finish"])
def test_a_logger_that_raises_is_named_and_the_others_get_everything(run, tmp_path, method):
    tables = [table(tmp_path / "bad.jsonl", raises=method), table(tmp_path / "good.jsonl")]
    result = sync(run, "--set", f"loggers=[{', '.join(tables)}]")
    assert result.exit_code == 1
    phase = "log of step 0" if method == "log" else method
    assert (
        f'error: logger "noting" of plugin "noting" (dpotrain-noting 3.0) raised in {phase}: ConnectionError: gone ('
        in result.stderr
    )
    assert result.stdout.count("and how the run ended") == 1
    assert len(noted(tmp_path / "good.jsonl")) == 8


def test_to_takes_one_of_the_recipes_loggers_or_one_that_it_does_not_have(run, site, tmp_path):
    install(site, "dpotrain-other", "1.0", other=OTHER)
    file = tmp_path / "notes.jsonl"
    result = sync(run, *to(file), "--to", "other")
    assert result.exit_code == 0, result.output
    assert "note: other has 6" in result.stdout
    assert not file.exists()
    assert sync(run, *to(file), "--to", "noting", "--to", "other").exit_code == 0
    assert file.exists()


def test_a_recipe_whose_other_plugins_are_gone_will_do(run, tmp_path):
    recipe = run / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('use = "dpo"', 'use = "gone"'))
    assert sync(run, *to(tmp_path / "notes.jsonl")).exit_code == 0


@pytest.mark.parametrize(
    ("change", "arguments", "code", "text"),
    [
        (shutil.rmtree, [], 2, "is no folder, so it is no run folder.\nName the folder that run.output_dir"),
        (lambda run: (run / "recipe.toml").unlink(), [], 2, "has no recipe.toml, so it is no run folder."),
        (lambda run: (run / "metrics.jsonl").unlink(), [], 2, "has no metrics.jsonl: the run has not logged"),
        (
            lambda run: None,
            [],
            2,
            "has no [[loggers]] that the records could go to.\nName one: dpotrain sync",
        ),
        (lambda run: None, ["--to", "notin"], 2, 'there is no logger "notin"; did you mean "noting"?'),
        (lambda run: None, ["--to", "noting"], 2, "[loggers.0] file: missing"),
        (
            lambda run: (run / "data_report.json").write_text("{}"),
            ["--set", "loggers=[{use='noting', file='f'}]"],
            1,
            "data_report.json is missing or damaged (KeyError",
        ),
    ],
)
def test_what_cannot_be_sent_is_a_clean_error(run, change, arguments, code, text):
    change(run)
    result = sync(run, *arguments)
    assert result.exit_code == code, result.output
    assert text in result.stderr
    assert "Traceback" not in result.stderr


def test_a_summary_that_is_damaged_is_said(run, tmp_path):
    (run / "summary.json").write_text('["finished"]')
    result = sync(run, *to(tmp_path / "notes.jsonl"))
    assert result.exit_code == 0
    assert f"note: how the run ended is not known: {run / 'summary.json'} is damaged" in result.stdout


def test_a_run_that_is_going_on_is_left_alone(run, tmp_path):
    with RunLock(run):
        result = sync(run, *to(tmp_path / "notes.jsonl"))
    assert result.exit_code == 1
    assert f"{run} is in use: process {os.getpid()} on " in result.stderr
    assert "then its records can be sent" in result.stderr
    assert not (tmp_path / "notes.jsonl").exists()


def test_nothing_heavy_is_imported(run, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    assert set(HEAVY).isdisjoint(imported_by("sync", str(run), *to(tmp_path / "notes.jsonl")))


def test_wandb_and_tensorboard_have_real_steps_and_the_end(run, monkeypatch, tmp_path):
    """Sent twice to the same folder, as after a run whose loggers were dropped half-way, no step is there twice."""
    pytest.importorskip("tensorboard")
    wandb = pytest.importorskip("wandb")
    for name in list(os.environ):
        if name.startswith("WANDB"):
            monkeypatch.delenv(name)
    overrides = ("--set", 'loggers=[{use="wandb", mode="offline"}, {use="tensorboard"}]')
    try:
        for _ in range(2):
            result = sync(run, *overrides)
            assert result.exit_code == 0, result.output
            time.sleep(1.1)  # wandb names its folders by the second
    finally:
        wandb.teardown()
    trained = {line["step"]: line["loss"] for line in records(run)}
    evaluated = {line["step"]: line["loss"] for line in records(run, "eval")}
    for folder in offline_folders(run):
        rows = history(record_file(folder))
        assert [row["_step"] for row in rows] == [0, 1, 2, 3, 4]
        assert {row["_step"]: row["loss"] for row in rows if "loss" in row} == trained
        assert {row["_step"]: row["eval/loss"] for row in rows if "eval/loss" in row} == evaluated
        assert [record.exit.exit_code for record in of_kind(record_file(folder), "exit")] == [0]
    written = scalars(run)
    assert written["loss"] == [(step, round(loss, 4)) for step, loss in trained.items()]
    assert written["eval/loss"] == [(step, round(loss, 4)) for step, loss in evaluated.items()]
