"""Numbers that go wrong: noticed before the update, their pairs written out, and the run saved or the step left out."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from dpotrain.core.errors import RunError
from dpotrain.engine.training import trainer
from tests.run.recipes import Recording, project, records, run, weights
from tests.run.test_resume import story

ORDINARY = trainer.pair_losses


def nan_losses(losses, scores):
    return losses * math.nan


def nan_gradients(losses, scores):
    return losses + torch.sqrt(scores.policy_chosen * 0)


def spoil(monkeypatch, how, *steps):
    """Spoil the losses of some steps, each of which is one micro-batch here."""
    taken = 0

    def pair_losses(loss, scores, *more):
        nonlocal taken
        losses = ORDINARY(loss, scores, *more)
        taken += torch.is_grad_enabled()
        return how(losses, scores) if torch.is_grad_enabled() and taken in steps else losses

    monkeypatch.setattr(trainer, "pair_losses", pair_losses)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Ten steps, with dropout, so that random states matter."""
    path = project(tmp_path_factory.mktemp("nonfinite"), adapter=True)
    path.write_text(path.read_text() + "dropout = 0.2\n")
    run(path)
    return path


@pytest.mark.parametrize("how", [nan_losses, nan_gradients])
def test_the_run_ends_saved_and_goes_on_as_if_nothing_had_been(recipe, tmp_path, monkeypatch, how):
    """TRAPS: NaN gradient norm: gradients dropped silently. Nothing checked at all (most)."""
    spoil(monkeypatch, how, 4)
    with pytest.raises(RunError) as caught:
        run(recipe, into=tmp_path / "run")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("step 4: the loss is ")
    assert lines[0].endswith("nothing was updated.")
    assert "The state of step 3 is saved." in lines[3]
    file = tmp_path / "run" / "nonfinite_pairs.jsonl"
    assert lines[2] == f"They are in {file}."
    written = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(written) == 5
    rows = [json.loads(line) for line in (recipe.parent / "pairs.jsonl").read_text().splitlines()]
    for pair in written:
        assert pair["step"] == 4
        assert rows[pair["row"]]["prompt"] in pair["prompt"]
        assert rows[pair["row"]]["chosen"].strip() in pair["chosen"]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000003"]
    monkeypatch.undo()
    outcome = run(recipe, into=tmp_path / "run", resume=True)
    whole = recipe.parent / "run"
    assert weights(outcome.final) == weights(whole / "final")
    assert story(tmp_path / "run") == story(whole)


def test_a_step_is_left_out_where_the_recipe_says_so(recipe, tmp_path, monkeypatch):
    spoil(monkeypatch, nan_losses, 4, 7)
    told = Recording()
    outcome = run(recipe, 'training.on_nonfinite="skip"', into=tmp_path / "run", reporter=told)
    assert outcome.status == "finished"
    assert all(
        tensor.isfinite().all() for tensor in load_file(outcome.final / "adapter_model.safetensors").values()
    )
    lines = records(tmp_path / "run")
    assert [line["step"] for line in lines if line["loss"] is None] == [4, 7]
    assert [line["learning_rate"] for line in lines] == [
        line["learning_rate"] for line in records(recipe.parent / "run")
    ]
    assert [text.splitlines()[-1] for text in told.warnings] == ["The step is skipped."] * 2
    written = (tmp_path / "run" / "nonfinite_pairs.jsonl").read_text().splitlines()
    assert {json.loads(line)["step"] for line in written} == {4, 7}


def test_a_run_that_learns_nothing_any_more_ends_all_the_same(recipe, tmp_path, monkeypatch):
    spoil(monkeypatch, nan_losses, *range(1, 11))
    with pytest.raises(RunError, match="10 steps in a row were like that"):
        run(recipe, 'training.on_nonfinite="skip"', into=tmp_path / "run")
