"""``dpotrain checkpoints``: what is there, what is sound, and where --resume would go on."""

import json
import shutil

import pytest

from dpotrain import load_recipe, train
from dpotrain.core.reporter import SilentReporter
from dpotrain.report import inventory
from tests.cli.test_main import HEAVY, imported_by
from tests.run.recipes import project
from tests.support import dpotrain


@pytest.fixture
def run(tmp_path):
    """A finished run with the checkpoints of steps 2, 4 and 6."""
    overrides = ["training.steps=6", "checkpoints.every=2", "evaluation.every=2"]
    train(load_recipe(project(tmp_path), overrides), reporter=SilentReporter())
    return tmp_path / "run"


def listed(run, code=0):
    result = dpotrain("checkpoints", str(run), "--json")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_all_are_listed_and_one_is_gone_on_from(run):
    entries = listed(run)
    assert [entry["step"] for entry in entries] == [2, 4, 6]
    assert [entry["resumes"] for entry in entries] == [False, False, True]
    assert not any(entry["fault"] for entry in entries)
    best = json.loads((run / "summary.json").read_text())["best_evaluation"]["step"]
    assert [entry["step"] for entry in entries if entry["best"]] == [best]
    for entry in entries:
        files = [
            file.stat().st_size for file in (run / "checkpoints" / f"step-{entry['step']:08d}").iterdir()
        ]
        assert entry["bytes"] == sum(files)


def test_a_damaged_one_is_named_with_its_fault_and_ends_in_exit_1(run):
    file = run / "checkpoints" / "step-00000006" / "optimizer.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    before = sorted((run / "checkpoints").iterdir())
    entries = listed(run, code=1)
    assert [entry["resumes"] for entry in entries] == [False, True, False]
    result = dpotrain("checkpoints", str(run))
    assert result.exit_code == 1
    assert "step 6 optimizer.safetensors has changed since it was written" in result.stdout
    assert sorted((run / "checkpoints").iterdir()) == before


def test_a_person_sees_a_table(run):
    result = dpotrain("checkpoints", str(run))
    assert result.exit_code == 0
    rows = [line.split() for line in result.stdout.splitlines() if "valid" in line]
    assert [row[0] for row in rows] == ["2", "4", "6"]
    assert "--resume" in rows[-1]
    assert "damaged" not in result.stdout


def test_a_folder_that_is_no_run_is_exit_2(tmp_path):
    for folder, why in ((tmp_path, "has no checkpoints/"), (tmp_path / "none", "is no folder")):
        result = dpotrain("checkpoints", str(folder))
        assert result.exit_code == 2
        assert f"error: {folder} {why}, so it is no run folder." in result.stderr
        assert "run.output_dir" in result.stderr


def test_a_run_without_any_yet_says_so(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    result = dpotrain("checkpoints", str(tmp_path / "run"))
    assert result.exit_code == 0
    assert "has no checkpoint yet" in result.stdout


def test_nothing_heavy_is_imported(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    assert set(HEAVY).isdisjoint(imported_by("checkpoints", str(tmp_path)))


def test_one_that_a_run_prunes_meanwhile_is_left_out(run, monkeypatch):
    ordinary = inventory.files.verify

    def verify(path):
        if path.name == "step-00000002":
            shutil.rmtree(path)
        return ordinary(path)

    monkeypatch.setattr(inventory.files, "verify", verify)
    assert [entry["step"] for entry in listed(run)] == [4, 6]
