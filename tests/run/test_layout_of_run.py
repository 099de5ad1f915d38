"""A run's processes choose its layout together, as ``dpotrain plan --devices`` shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from dpotrain import load_recipe
from dpotrain.core.errors import RecipeError, RunError
from dpotrain.core.reporter import SilentReporter
from dpotrain.data.prepare import prepare_data
from dpotrain.engine.memory.layout import Layout
from dpotrain.engine.parallel.context import check_groups
from dpotrain.engine.parallel.one_process import OneProcess
from dpotrain.engine.parallel.replicated import EXCHANGE_TIMEOUT
from dpotrain.engine.sharding import sharded
from dpotrain.run import layout as layouts
from dpotrain.run import session
from dpotrain.run.building import build as building
from dpotrain_plugins.transformers_loader import TransformersLoader
from tests.data.preparing import RecordingReporter
from tests.run.recipes import project, run
from tests.run.test_layouts import GB, planned, shape

__all__ = ["shape"]


GPU = torch.device("cuda", 0)


@dataclass
class Rank:
    """One of several processes, each of which finds other memory free."""

    free: list[int]
    device: torch.device = GPU

    @property
    def world_size(self) -> int:
        return len(self.free)

    @property
    def local_size(self) -> int:
        return min(8, len(self.free))

    def gather_objects(self, item: Any) -> list[Any]:
        _, host, local = item
        return [(free, host, local) for free in self.free]

    def broadcast_object(self, item: Any) -> Any:
        return item


def read(path, *overrides: str):
    recipe = load_recipe(path, ["training.precision=bf16", *overrides])
    return recipe, prepare_data(recipe, recipe.model.load_tokenizer(), SilentReporter())


@pytest.mark.parametrize(("least", "layout"), [(12, Layout(8, 8)), (79, Layout(8))])
def test_every_rank_chooses_what_fits_the_least_memory_that_one_has_and_so_does_a_plan(
    least, layout, shape, tmp_path, monkeypatch
):
    shape("1b")
    recipe, data = read(project(tmp_path))
    free = [79 * GB] * 7 + [least * GB]
    choices = []
    for mine in (79, least):  # of the first and of the last rank
        of = {"cuda": mine * GB, "cpu": 1000 * GB}
        monkeypatch.setattr(layouts, "free_memory", lambda device, of=of: of[device.type])
        choices.append(layouts.layout_of_run(recipe, Rank(free), data))
    assert choices[0] == choices[1]
    assert choices[0].layout == layout
    # Of a GPU that is not here, what a context of CUDA takes is counted, too.
    plan = planned(tmp_path / "recipe.toml", 8, least + 600 / 1024, "training.pairs_per_step=5")
    assert plan.devices.layout == str(layout)
    assert ("sharded over all devices" in choices[0].reason) == (layout.shards == 8)


def test_a_loader_that_cannot_describe_its_model_leaves_weights_replicated(tmp_path, monkeypatch):
    monkeypatch.setattr(TransformersLoader, "blueprint", lambda self, request: None)
    monkeypatch.setattr(layouts, "free_memory", lambda device: 80 * GB)
    recipe, data = read(project(tmp_path))
    found = layouts.layout_of_run(recipe, Rank([80 * GB] * 2), data)
    assert found.layout == Layout(2)
    assert found.reason.startswith(
        'weights are replicated: the loader "transformers" cannot describe its model'
    )


def test_one_process_and_what_the_recipe_says_need_no_description(tmp_path, monkeypatch):
    monkeypatch.setattr(TransformersLoader, "blueprint", lambda self, request: None)
    monkeypatch.setattr(layouts, "free_memory", lambda device: 80 * GB)
    path = project(tmp_path)
    recipe, data = read(path, "parallel.shard=all", "parallel.group=4")
    one = OneProcess(torch.device("cpu"))
    assert layouts.layout_of_run(recipe, one, data).layout == Layout(1)
    assert layouts.layout_of_run(recipe, Rank([80 * GB] * 8), data).layout == Layout(8, 4)
    with pytest.raises(RecipeError, match=r"parallel\.group = 4 does not divide the run's 6 devices"):
        layouts.layout_of_run(recipe, Rank([80 * GB] * 6), data)


def test_what_is_measured_with_shards_on_the_host_is_kept_apart(tmp_path, monkeypatch):
    class Offloads(OneProcess):
        offloads = True

    found = []
    monkeypatch.setattr(session, "spread", lambda recipe, joined, data: (Offloads(), ""))
    measuring = building.measuring_of
    monkeypatch.setattr(building, "measuring_of", lambda *given: found.append(measuring(*given)) or found[0])
    run(project(tmp_path), "training.steps=1")
    assert found[0].memory.share.layout.offload


@pytest.mark.parametrize(
    ("overrides", "shards_weights", "advised"),
    [
        ([], False, True),
        ([], True, False),  # "auto" has sharded them
        (["parallel.shard=all"], True, False),
        (["optimizer.use=muon"], False, False),
    ],
)
def test_out_of_memory_advises_sharding_where_that_is_possible_and_not_yet_done(
    overrides, shards_weights, advised, tmp_path, monkeypatch
):
    def build(recipe, folder, parallel, reporter, stop, events, found, spread):
        spread(recipe, parallel, None)
        raise torch.OutOfMemoryError("CUDA out of memory")

    class Two(OneProcess):
        world_size = 2

    class Sharding(Two):
        shards_weights = True

    monkeypatch.setattr(session, "build", build)
    monkeypatch.setattr(session, "start", lambda *groups: Two(torch.device("cpu")))
    held = Sharding() if shards_weights else Two()
    monkeypatch.setattr(session, "spread", lambda recipe, joined, data: (held, ""))
    with pytest.raises(RunError, match="is out of memory") as caught:
        run(project(tmp_path), *overrides)
    assert ('parallel.shard = "all" shards the weights' in str(caught.value)) == advised


def test_groups_that_do_not_divide_the_processes_are_refused_before_anything_is_read(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(session, "start", lambda *given: asked.append(given[:2]) or OneProcess())
    run(project(tmp_path), "parallel.group=3", "training.steps=1")
    assert asked == [(1, 3)]
    check_groups(1, 3, 1)
    check_groups(2, 3, 6)
    with pytest.raises(
        RecipeError, match=r"parallel\.group = 3 .* 3 processes, and this run has 4 processes"
    ):
        check_groups(2, 3, 4)
    with pytest.raises(RecipeError, match=r"parallel\.context = 3 divides every pair over 3 processes"):
        check_groups(3, None, 4)


def test_every_group_of_hybrid_sharding_waits_as_long_as_all_processes_do(monkeypatch):
    """torch's own default for NCCL is 10 minutes."""
    made, meshes = [], []
    monkeypatch.setattr(
        torch.distributed, "new_group", lambda ranks, **how: made.append((ranks, how)) or ranks
    )
    monkeypatch.setattr(
        sharded.DeviceMesh, "from_group", lambda *given, **names: meshes.append((*given, names))
    )
    joined = object.__new__(sharded.Sharded)
    joined.world_rank, joined.world_size, joined.shards, joined._copies = 5, 8, 4, 2
    joined.device = torch.device("cpu")
    joined._hybrid_mesh()
    assert {how["timeout"] for _, how in made} == {EXCHANGE_TIMEOUT}
    ((groups, kind, ranks, names),) = meshes
    assert [list(each) for each in groups] == [[1, 5], [4, 5, 6, 7]]
    assert (kind, ranks.tolist()) == ("cpu", [[0, 1, 2, 3], [4, 5, 6, 7]])
    assert names == {"mesh_dim_names": ("copy", "shard")}


def test_the_header_says_why(tmp_path, monkeypatch):
    why = "weights are replicated, which takes at least 17.8 GB of the 80.0 GB of each device"
    monkeypatch.setattr(session, "spread", lambda recipe, joined, data: (joined, why))
    listening = RecordingReporter()
    run(project(tmp_path), "training.steps=1", reporter=listening)
    assert listening.facts["engine"].endswith(why)
    # One process has nothing to choose, and shows no phase of it.
    phases = [name for name, _, _ in listening.phases]
    assert "measuring memory" in phases
    assert not any("how processes" in name for name in phases)
