"""Runs whose reference follows the policy: however they are cut, killed and resumed, and what they say of it."""

import json
import signal

import pytest
import torch
from safetensors.torch import load_file, save_file

from dpotrain.core.errors import RunError
from dpotrain.run.checkpoint import files as checkpoints
from dpotrain.run.checkpoint.tensor_files import check_fits
from tests.run.recipes import Recording, losses, project, records, run
from tests.run.test_resume_matrix import MOVES, STOPPED, differences, into, recipe_of, stops_at

soak = pytest.mark.soak
ADAPTER = pytest.mark.parametrize("adapter", [pytest.param(False, marks=soak), True], ids=["full", "lora"])


@ADAPTER
def test_losses_are_the_same_however_a_step_is_cut_and_in_two_processes(adapter, forked, tmp_path):
    recipe = project(tmp_path, adapter=adapter)
    common = [MOVES, "checkpoints.every=3", "evaluation.every=3"]
    ways = {
        "one": ["training.tokens_per_microbatch=100000"],
        "cut": ["training.tokens_per_microbatch=60", "training.activation_checkpointing=1"],
        "padded": ['training.packing="off"'],
    }
    for name, way in ways.items():
        ended = forked.run(recipe, [*common, *way, into(tmp_path / name)])
        assert ended.code == 0, ended.output
    two = [*common, into(tmp_path / "two")]
    stopped = forked.ranks(recipe, two, acts=[stops_at(6, rank=0)])  # right after an update
    assert [ended.code for ended in stopped] == [STOPPED, STOPPED], stopped
    done = forked.ranks(recipe, two)
    assert [ended.code for ended in done] == [0, 0], done
    expected, held_out = (
        losses(tmp_path / "one"),
        [each["loss"] for each in records(tmp_path / "one", "eval")],
    )
    for name in ("cut", "padded", "two"):
        assert losses(tmp_path / name) == pytest.approx(expected, abs=1e-5)
        evaluated = [each["loss"] for each in records(tmp_path / name, "eval")]
        assert evaluated == pytest.approx(held_out, abs=1e-4)
    run(recipe, into=tmp_path / "still")
    still = losses(tmp_path / "still")
    assert expected[:3] == pytest.approx(still[:3], abs=1e-5)
    assert abs(expected[3] - still[3]) > 1e-4  # the first step whose reference has moved


@soak
@ADAPTER
def test_killed_around_updates_it_ends_in_the_same_bits(adapter, forked, tmp_path):
    """TRAPS: a reference that moves during training not saved with the checkpoint."""
    recipe = recipe_of(tmp_path, adapter)
    settings = [MOVES, "checkpoints.every=1"]
    assert forked.run(recipe, settings).code == 0
    killed = [*settings, into(tmp_path / "killed")]
    for step in (2, 3, 4, 6, 6, 7):
        acts = [["signal_after", step, "SIGKILL"]]
        assert forked.run(recipe, killed, acts=acts).code == -signal.SIGKILL
    assert forked.run(recipe, killed).code == 0
    assert differences(tmp_path / "killed", tmp_path / "run") == []
    newest, _ = checkpoints.newest(tmp_path / "killed" / "checkpoints")
    held = checkpoints.load(newest)
    assert held.reference.keys() == held.trained.keys()
    assert any((held.reference[name] != held.trained[name]).any() for name in held.trained)


def test_a_resumed_run_keeps_how_its_reference_moves(tmp_path):
    recipe = project(tmp_path, adapter=True)
    run(recipe, MOVES, reporter=Recording(stop_at=2))
    with pytest.raises(RunError, match=r"reference\.update\.share: 0\.6 then, 1\.0 now"):
        run(recipe, "reference.update={every=3, share=1}", resume=True)
    with pytest.raises(RunError, match=r"reference\.update\.every: 3 then, nothing now"):
        run(recipe, resume=True)
    newest, _ = checkpoints.newest(tmp_path / "run" / "checkpoints")
    trained = checkpoints.load(newest).trained
    file = newest / "reference.safetensors"
    save_file({"another": torch.zeros(2)}, file)
    with pytest.raises(RunError, match="is of another model"):
        check_fits(newest, trained, [])
    file.unlink()
    with pytest.raises(RunError, match=r"cannot be read: .*reference\.safetensors"):
        check_fits(newest, trained, [], reference=True)


@pytest.mark.parametrize(
    ("share", "said"),
    [(0.6, "becomes 0.6 policy + 0.4 reference every 3 steps"), (1, "becomes the policy every 3 steps")],
)
def test_the_run_says_how_its_reference_moves(share, said, tmp_path):
    recipe, reporter = project(tmp_path, adapter=True), Recording()
    run(recipe, f"reference.update={{every=3, share={share}}}", "training.steps=1", reporter=reporter)
    assert reporter.facts["reference"] == said
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["moving reference"]["reference"] == said
    assert not (tmp_path / "run" / "reference").exists()
    run(recipe, "training.steps=1", into=tmp_path / "still", reporter=(still := Recording()))
    assert "reference" not in still.facts


def test_final_holds_the_policy_of_the_best_evaluation_and_no_reference(tmp_path):
    recipe = project(tmp_path, adapter=True)
    settings = [MOVES, "evaluation.every=2", "evaluation.best=true", 'checkpoints.best="rewards/margins"']
    outcome = run(recipe, *settings)
    best = checkpoints.load(tmp_path / "run" / "checkpoints" / f"step-{outcome.final_step:08d}")
    final = load_file(tmp_path / "run" / "final" / "adapter_model.safetensors")
    held = {name.replace(".default", ""): weight for name, weight in best.trained.items()}
    assert {name for name in final if not (final[name] == held[name]).all()} == set()
