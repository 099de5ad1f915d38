"""What ``dpotrain plan`` says that a device sends in a step is what the collectives of the run carry."""

import json
from pathlib import Path

import pytest

from dpotrain import load_recipe
from dpotrain.core.reporter import SilentReporter
from dpotrain.data.prepare import prepare_data
from dpotrain.engine.memory.exchange import Exchange
from dpotrain.run.planning.devices import Asked
from dpotrain.run.planning.plan import make_plan
from tests.run.recipes import project
from tests.run.test_resume_matrix import into
from tests.support import tiny_checkpoint

pytestmark = pytest.mark.soak

#: One epoch, so that an average step is that of the plan; several micro-batches in some steps.
ALWAYS = ["training.epochs=1", "training.tokens_per_microbatch=120", "run.cache_dir=false"]
SHARDED = 'parallel.shard="all"'


@pytest.fixture(scope="module")
def projects(tmp_path_factory) -> dict[bool, Path]:
    found = {adapter: project(tmp_path_factory.mktemp("pairs"), adapter=adapter) for adapter in (False, True)}
    tiny_checkpoint(found[False].parent / "other", hidden_size=16, intermediate_size=32, num_hidden_layers=1)
    return found


def predicted(recipe: Path, overrides: list[str], devices: int) -> Exchange:
    loaded = load_recipe(recipe, overrides)
    data = prepare_data(loaded, loaded.model.load_tokenizer(), SilentReporter())
    (way,) = (way for way in make_plan(loaded, data, asked=Asked(devices)).devices.ways if way.chosen)
    return way.exchange


@pytest.mark.parametrize(
    ("adapter", "ranks", "how"),
    [
        (True, 2, []),
        (False, 2, []),
        (True, 2, [SHARDED]),
        (False, 2, [SHARDED, 'reference.when="live"', "training.activation_checkpointing=true"]),
        (False, 2, ["parallel.context=2", "training.activation_checkpointing=1"]),
        # Groups of two hold the weights, and share each pair; the reference is a smaller model.
        (False, 4, [SHARDED, "parallel.group=2", "parallel.context=2", 'reference.when="live"', "other"]),
    ],
    ids=["lora", "full", "lora, sharded", "full, sharded", "context", "everything"],
)
def test_a_step_sends_what_the_plan_says(adapter, ranks, how, projects, forked, tmp_path):
    recipe = projects[adapter]
    other = f"reference.of={str(recipe.parent / 'other')!r}"
    overrides = [*ALWAYS, *(other if each == "other" else each for each in how)]
    counted = tmp_path / "counted.json"
    ended = forked.ranks(
        recipe, [*overrides, into(tmp_path / "run")], ranks=ranks, acts=[[0, "count_exchange", str(counted)]]
    )
    assert [each.code for each in ended] == [0] * ranks, ended
    steps = json.loads(counted.read_text(encoding="utf-8"))
    assert len(steps) == 5
    kinds = {kind for step in steps for kind in step}
    mean = {kind: sum(step.get(kind, 0.0) for step in steps) / len(steps) for kind in kinds}
    expected = predicted(recipe, overrides, ranks)
    assert mean.get("_allgather_base_ of 2", 0.0) == pytest.approx(expected.gathered)
    assert mean.get("_reduce_scatter_base_ of 2", 0.0) == pytest.approx(expected.scattered)
    # Rows that do not divide are filled up for it.
    assert mean.get("alltoall_base_ of 2", 0.0) == pytest.approx(expected.attention, rel=0.02)
    # What the formula leaves out is added up, too: log-probs of a context group, the norm.
    sums = sum(sent for kind, sent in mean.items() if kind.startswith("allreduce_"))
    assert sums == pytest.approx(expected.added_up + expected.copies, rel=0.02)
    assert sum(mean.values()) == pytest.approx(expected.total, rel=0.02)
