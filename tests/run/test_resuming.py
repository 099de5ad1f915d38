"""What a resumed run may change, and what not."""

import copy

import pytest

from dpotrain import load_recipe
from dpotrain.core.errors import RunError
from dpotrain.engine.parallel.one_process import OneProcess
from dpotrain.plugin.api import KINDS, DatasetSource, Selection
from dpotrain.run.checkpoint import files
from dpotrain.run.checkpoint.resuming import find_resumable
from dpotrain.run.resume_config import check_same, free_options, resume_config
from tests.run.recipes import project
from tests.run.recipes import run as train

DOCUMENT = {
    "seed": 42,
    "run": {"output_dir": "runs/a"},
    "model": {"use": "transformers", "name": "m"},
    "loss": {"use": "dpo", "beta": 0.1},
    "training": {"epochs": 1, "pairs_per_step": 8, "tokens_per_microbatch": "auto", "precision": "bf16"},
    "reference": {"of": "initial-policy", "when": "auto"},
    "evaluation": {"every": 5},
    "metrics": [{"use": "length"}],
    "loggers": [{"use": "wandb"}],
    "exporters": [{"use": "merge"}],
}


def changed(table, **values):
    document = copy.deepcopy(DOCUMENT)
    document[table] = {**document[table], **values}
    return document


@pytest.mark.parametrize(
    ("table", "values"),
    [
        ("run", {"output_dir": "elsewhere"}),
        ("training", {"epochs": 3}),
        ("training", {"steps": 5}),
        ("training", {"tokens_per_microbatch": 512}),
        ("reference", {"when": "live"}),
        ("evaluation", {"every": 7}),
    ],
)
def test_what_moves_speed_files_or_the_end_may_change(table, values):
    check_same(resume_config(DOCUMENT), resume_config(changed(table, **values)))


@pytest.mark.parametrize(
    ("table", "values", "line"),
    [
        ("loss", {"beta": 0.2}, "loss.beta: 0.1 then, 0.2 now"),
        ("loss", {"label_smoothing": 0.1}, "loss.label_smoothing: nothing then, 0.1 now"),
        ("training", {"pairs_per_step": 4}, "training.pairs_per_step: 8 then, 4 now"),
        ("training", {"precision": "fp32"}, "training.precision: 'bf16' then, 'fp32' now"),
        ("reference", {"of": "other"}, "reference.of: 'initial-policy' then, 'other' now"),
    ],
)
def test_what_changes_the_steps_is_refused_with_the_difference(table, values, line):
    with pytest.raises(RunError) as caught:
        check_same(resume_config(DOCUMENT), resume_config(changed(table, **values)))
    assert line in str(caught.value)
    assert "run.output_dir" in str(caught.value)


class Answering(DatasetSource):
    name = "answering"
    free_on_resume = frozenset({"samples"})

    def splits(self):
        return ["train"]

    def load(self, split):
        return []


def test_an_option_that_its_component_says_no_step_depends_on_may_change():
    free = free_options(
        Selection(parts={"data": (Answering(Answering.Options()),)}, document=DOCUMENT), KINDS
    )
    before, now = {"data.samples": 200, "data.seed": 0}, {"data.samples": 0, "data.seed": 0}
    check_same(before, now, free)
    with pytest.raises(RunError, match=r"data\.seed: 0 then, 1 now"):
        check_same(before, {**now, "data.seed": 1}, free)


def test_a_secret_that_one_recipe_knew_as_such_and_the_other_not_yet_is_no_difference():
    check_same({"data.inner.token": "***"}, {"data.inner.token": "something-secret"})


class OtherRank(OneProcess):
    """One that hears of what the main process has found."""

    is_main = False

    def __init__(self, found):
        super().__init__()
        self.found = found

    def broadcast_object(self, item):
        return self.found


def test_one_process_alone_hashes_the_checkpoint(tmp_path, monkeypatch):
    path = project(tmp_path)
    train(path, "training.steps=1")
    recipe, checkpoints = load_recipe(path), tmp_path / "run" / "checkpoints"
    found = find_resumable(checkpoints, recipe, OneProcess())
    assert found.path == checkpoints / "step-00000001"

    def verify(path):
        raise AssertionError(path)

    monkeypatch.setattr(files, "verify", verify)
    assert find_resumable(checkpoints, recipe, OtherRank((found.path, {}))) == found
