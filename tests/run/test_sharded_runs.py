"""Whole runs whose processes shard the weights: the losses of one process, and one that fails ends all."""

import json
from pathlib import Path

import pytest

from dpotrain.core.errors import ProcessLostError, RunStopped
from tests.run.recipes import losses, project, records, run
from tests.run.test_failing_ranks import FAST, summary
from tests.run.test_resume_matrix import into

ROOT = Path(__file__).parents[2]
soak = pytest.mark.soak
SHARD = 'parallel.shard="all"'
SAMPLES = '[samples]\nprompts = ["the quick", "bake bread"]\nmax_tokens = 6\n'


@pytest.fixture(scope="module", params=["full", pytest.param("lora", marks=soak)])
def one_process(request, tmp_path_factory) -> tuple[Path, list[float]]:
    folder = tmp_path_factory.mktemp(request.param)
    recipe = project(folder, adapter=request.param == "lora")
    recipe.write_text(recipe.read_text() + SAMPLES)
    run(recipe)
    return recipe, losses(folder / "run")


@pytest.mark.parametrize(
    ("ranks", "more"),
    [
        (2, []),
        pytest.param(2, ["training.tokens_per_microbatch=60", 'reference.when="live"'], marks=soak),
        pytest.param(2, ["training.activation_checkpointing=true"], marks=soak),
        pytest.param(4, ["parallel.group=2", "training.tokens_per_microbatch=60"], marks=soak),
        pytest.param(4, ['reference.when="precomputed"'], marks=soak),
    ],
    ids=["two", "small micro-batches", "checkpointing", "groups of two", "four"],
)
def test_a_run_with_divided_weights_is_that_of_one_process(ranks, more, one_process, forked, tmp_path):
    recipe, expected = one_process
    ended = forked.ranks(recipe, [into(tmp_path), SHARD, *more], ranks=ranks)
    assert [each.code for each in ended] == [0] * ranks, ended
    assert "choosing how processes hold the weights" in ended[0].output
    shards = 2 if "parallel.group=2" in more else ranks
    assert f"{ranks} processes, weights sharded over {shards}" in ended[0].output
    assert losses(tmp_path) == pytest.approx(expected, abs=1e-5)
    for mine, theirs in zip(records(tmp_path, "eval"), records(recipe.parent / "run", "eval"), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
    assert samples(tmp_path) == samples(recipe.parent / "run")


def samples(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    return project(tmp_path_factory.mktemp("failing"))


@pytest.mark.parametrize(
    ("rank", "place", "how"),
    [
        (1, "step", "memory"),
        pytest.param(0, "step", "raise", marks=soak),
        pytest.param(1, "step", "exit", marks=soak),
        pytest.param(1, "evaluation", "memory", marks=soak),
    ],
)
def test_a_process_that_fails_inside_a_pass_of_all_ends_all(rank, place, how, recipe, forked, tmp_path):
    acts = [*FAST, [rank, "fails_in", place, how, int(place == "step")]]
    ended = forked.ranks(recipe, [into(tmp_path), SHARD], acts=acts)
    assert ended[rank].code == (9 if how == "exit" else 1), ended
    assert ended[1 - rank].code == (ProcessLostError.exit_code if how == "exit" else 1), ended
    said = {
        "memory": "is out of memory (CUDA out of memory.",
        "raise": f"broken in the {place}",
        "exit": "has ended",
    }[how]
    for each in ended if how != "exit" else [ended[1 - rank]]:
        assert said in each.told
    if how != "exit":
        assert f"process {rank} on " in ended[1 - rank].told
        assert said in summary(tmp_path)["error"]


@soak
def test_a_signal_to_one_process_stops_all_with_a_checkpoint(recipe, forked, tmp_path):
    acts = [*FAST, [1, "fails_in", "step", "signal", 1]]
    ended = forked.ranks(recipe, [into(tmp_path), SHARD], acts=acts)
    assert [each.code for each in ended] == [RunStopped.exit_code] * 2, ended
    stopped = summary(tmp_path)
    assert stopped["status"] == "stopped"
    assert stopped["checkpoint_step"] == stopped["steps"] > 0


@soak
def test_layers_gathered_in_bfloat16_compute_what_autocast_does(recipe, forked, tmp_path):
    low = 'training.precision="bf16"'
    run(recipe, low, into=tmp_path / "one")
    ended = forked.ranks(recipe, [into(tmp_path / "two"), SHARD, low])
    assert [each.code for each in ended] == [0, 0], ended
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=2e-2)


@soak
def test_an_event_of_the_main_process_alone_does_not_wait_for_the_others(forked, tmp_path):
    """The demo's source samples replies, and sources hear events on the main process."""
    quickstart = ROOT / "recipes" / "quickstart.toml"
    ended = forked.ranks(
        quickstart, [into(tmp_path), SHARD, "training.steps=2", "samples=false"], resume=False
    )
    assert [each.code for each in ended] == [0, 0], ended
    assert "the demo samples no replies: the policy's weights are sharded" in ended[0].output
