"""``dpotrain run`` and ``dpotrain check``: what they hand on, and what they show."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dpotrain.core.launched_with import LAUNCH_OPTIONS, launch_options
from dpotrain.core.records import Outcome
from tests.run.recipes import project
from tests.support import dpotrain

ROWS = [
    {"prompt": f"What is {n}?", "chosen": f"{n} is a fine number.", "rejected": f"No idea about {n}."}
    for n in range(20)
] + [{"prompt": "Empty?", "chosen": "", "rejected": "x"}]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    """A recipe over a tiny model and a few rows."""
    file = project(tmp_path_factory.mktemp("recipe"))
    (file.parent / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    file.write_text(file.read_text().replace("eval_fraction = 0.2\n", ""))
    return file


def test_run_hands_recipe_overrides_and_resume_on(recipe, monkeypatch):
    seen = []

    def train(loaded, *, resume, reporter):
        seen.append((loaded.training.epochs, loaded.path, resume))
        return Outcome("finished", 3, Path(), None)

    monkeypatch.setattr("dpotrain.ui.train.train", train)
    assert dpotrain("run", str(recipe), "--set", "training.epochs=3").exit_code == 0
    assert dpotrain("run", "--resume", str(recipe)).exit_code == 0
    assert seen == [(3, recipe, False), (2, recipe, True)]


def test_what_accelerate_is_configured_for_is_part_of_the_recipe_and_of_no_library(recipe, monkeypatch):
    seen = []

    def train(loaded, *, resume, reporter):
        seen.append((loaded.parallel, {name for name in os.environ if name.startswith("ACCELERATE_USE_")}))
        return Outcome("finished", 3, Path(), None)

    monkeypatch.setattr("dpotrain.ui.train.train", train)
    sizes = {"PARALLELISM_CONFIG_DP_REPLICATE_SIZE": "2", "PARALLELISM_CONFIG_DP_SHARD_SIZE": "4"}
    asked = {"ACCELERATE_USE_FSDP": "true", "ACCELERATE_USE_PARALLELISM_CONFIG": "true", "WORLD_SIZE": "8"}
    for name, value in {**sizes, **asked}.items():
        monkeypatch.setenv(name, value)
    result = dpotrain("run", str(recipe))
    assert result.exit_code == 0, result.stderr
    ((parallel, left),) = seen
    assert (parallel.shard, parallel.group, left) == ("all", 4, set())
    assert (
        "dp_shard_size: 4, parallelism_config_cp_size: 1 of the accelerate configuration: parallel."
        in result.stderr
    )


def test_ranks_know_with_which_options_they_were_launched(recipe, monkeypatch):
    monkeypatch.setenv(LAUNCH_OPTIONS, "")  # put back afterwards
    monkeypatch.setattr("dpotrain.engine.launching.launch.launch", lambda request, ranks, document, say: 0)
    assert dpotrain("run", str(recipe), "--processes", "2", "--max-restarts", "5").exit_code == 0
    assert launch_options(os.environ) == ["--processes", "2", "--max-restarts", "5"]


def test_a_run_stopped_by_a_signal_is_exit_75(recipe, monkeypatch):
    monkeypatch.setattr(
        "dpotrain.ui.train.train",
        lambda loaded, resume, reporter: Outcome("stopped", 7, Path("runs/mine"), None),
    )
    result = dpotrain("run", str(recipe))
    assert result.exit_code == 75
    assert result.stderr == "stopped: the run was stopped after step 7 and its state is saved\n"


def test_a_wrong_recipe_is_refused_before_torch_is_imported(recipe):
    code = (
        "import sys\n"
        "from dpotrain.cli import main\n"
        "try:\n"
        f"    main(['run', {str(recipe)!r}, '--set', 'training.epoch=2'])\n"
        "except SystemExit as end:\n"
        "    print(end.code, 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2 False False\n"
    assert 'did you mean "epochs"?' in done.stderr


def test_check_shows_format_lengths_drops_and_one_pair(recipe):
    result = dpotrain("check", str(recipe))
    assert result.exit_code == 0, result.stderr
    out = result.stdout
    assert f"{recipe}: keys, plugins and files are in order\n" in out
    assert "  adapter: none, all weights are trained\n" in out
    assert "standard" in out
    assert "train: 21 rows, 20 pairs kept, 1 dropped" in out
    assert "tokens: median" in out
    assert (
        "one pair as the model sees it; dpotrain inspect --row N shows others whole:\n  row 0 of train\n"
        in out
    )
    assert "  prompt   │ «<s>»What is 0?\n" in out
    assert "  scored   │ 0 is a fine number.«<|im_end|>»\n" in out
    assert not (recipe.parent / "run").exists()


def test_check_cuts_a_long_text_in_its_middle(recipe, tmp_path):
    long = tmp_path / "long.jsonl"
    row = {"prompt": "begin " + "the lazy dog " * 200 + "end", "chosen": "a", "rejected": "b"}
    long.write_text(json.dumps(row) + "\n")
    result = dpotrain("check", str(recipe), "--set", f"data.name={long}", "--set", "data.max_length=4000")
    (line,) = [line for line in result.stdout.splitlines() if "«<s>»begin" in line]
    assert " … " in line
    assert line.endswith(" end")
    assert len(line) < 500
