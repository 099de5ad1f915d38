"""summary.json read back: what no run wrote says nothing, and breaks nothing that would show it."""

import json
from contextlib import suppress

import pytest

from dpotrain.core.errors import RunError
from dpotrain.core.summary import from_json
from dpotrain.run.folder.run_folder import RunFolder
from dpotrain.ui.summary import summary_text
from tests.fuzz.run_files import RECIPE as THIS
from tests.fuzz.run_files import SUMMARY

RECIPE = 'seed = 1\n[loss]\nuse = "dpo"\nbeta = 0.1\n[training]\nepochs = 1\n'


def folder_with(tmp_path, summary, recipe=RECIPE):
    folder = RunFolder(tmp_path)
    folder.summary.write_text(json.dumps(summary))
    folder.recipe.write_text(recipe)
    return folder


def test_a_finished_run_is_known_and_shown(tmp_path):
    folder = folder_with(tmp_path, SUMMARY)
    assert folder.finished(THIS) == SUMMARY
    assert "finished after 3 steps" in summary_text(from_json(SUMMARY, tmp_path))


def test_a_summary_of_an_earlier_version_is_read(tmp_path):
    earlier = {**SUMMARY, "plan": {**SUMMARY["plan"], "tokens_per_second_predicted": 1.0}}
    assert folder_with(tmp_path, earlier).finished(THIS) == earlier


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        "finished",
        {"status": "finished"},
        {**SUMMARY, "steps": "3"},
        {**SUMMARY, "status": "never begun"},
        {**SUMMARY, "last_evaluation": {"loss": "low"}},
        {**SUMMARY, "best_evaluation": {"step": float("nan"), "loss": 0.5}},
        {**SUMMARY, "best_evaluation": {"step": 3}},
        {**SUMMARY, "plan": {"peak_memory_mb_predicted": 9.0, "peak_memory_mb_measured": 99.0}},
        {**SUMMARY, "final": 7},
    ],
    ids=repr,
)
def test_what_no_run_wrote_is_no_finished_run(wrong, tmp_path):
    assert folder_with(tmp_path, wrong).finished(THIS) is None
    with pytest.raises(ValueError, match="validation error"):
        from_json(wrong, tmp_path)


@pytest.mark.parametrize("recipe", ["", "training = 1", "[training", ".".join(["a"] * 3000) + " = 1"])
def test_a_recipe_that_no_run_wrote_is_none_either(recipe, tmp_path):
    folder = folder_with(tmp_path, SUMMARY, recipe)
    with suppress(RunError):  # of another recipe, as far as can be told
        assert folder.finished(THIS) is None
