"""A checkpoint does not depend on the number of processes that shard the weights: any number resumes from it."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from dpotrain.run.checkpoint import files as checkpoints
from tests.run.recipes import losses, project, run
from tests.run.test_resume_matrix import MOVES, STOPPED, differences, into, stops_at

soak = pytest.mark.soak
#: Where a gradient is nearly zero, AdamW makes the most of how it is rounded, unless eps is above that.
SHARDED = ('parallel.shard="all"', "optimizer.eps=1e-3")

#: How a run trains: whether with an adapter, and what else.
WAYS = {
    "full": (False, []),
    "full, live reference": (False, ['reference.when="live"', "training.tokens_per_microbatch=60"]),
    "full, moving reference": (False, [MOVES]),
    "lora": (True, []),
    "lora, merged": (True, ["adapter.merge=true"]),
    "lora, 4 bits": (True, ['quantizer.use="bnb-4bit"']),
}

#: The processes that take the steps up to the second, up to the fifth, and the others.
QUICK = ("full", (2, 1, 2))
ROUTES = [
    QUICK,
    ("full", (4, 1, 4)),
    ("full, live reference", (4, 2, 4)),
    ("full, moving reference", (1, 4, 2)),
    ("lora", (4, 1, 2)),
    ("lora, merged", (2, 4, 1)),
    ("lora, 4 bits", (2, 1, 2)),
]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Return what makes a way's run of one process, once: its recipe and overrides."""
    made: dict[str, tuple[Path, list[str]]] = {}

    def make(way: str) -> tuple[Path, list[str]]:
        if way not in made:
            adapter, more = WAYS[way]
            recipe = project(tmp_path_factory.mktemp("sharded"), adapter=adapter)
            recipe.write_text(recipe.read_text() + "\n[evaluation]\nevery = 4\n[checkpoints]\nevery = 100\n")
            run(recipe, *SHARDED, *more)
            made[way] = recipe, [*SHARDED, *more]
        return made[way]

    return make


@pytest.mark.parametrize(
    ("way", "route"),
    [pytest.param(*each, marks=[soak] * (each is not QUICK), id=f"{each[0]}-{each[1]}") for each in ROUTES],
)
def test_any_number_of_processes_goes_on_from_a_checkpoint(way, route, uninterrupted, forked, tmp_path):
    recipe, overrides = uninterrupted(way)
    for ranks, stop in zip(route, (2, 5, None), strict=True):
        acts = [] if stop is None else [stops_at(stop, 0)]
        ended = forked.ranks(recipe, [into(tmp_path), *overrides], ranks=ranks, acts=acts)
        assert [each.code for each in ended] == [0 if stop is None else STOPPED] * ranks, ended
    whole = recipe.parent / "run"
    assert losses(tmp_path) == pytest.approx(losses(whole), abs=1e-5)
    same(tmp_path / "final", whole / "final")
    mine, theirs = (checkpoints.newest(each / "checkpoints")[0] for each in (tmp_path, whole))
    for file in sorted(theirs.glob("*.safetensors")):
        same_tensors(mine / file.name, file)


@soak
def test_the_same_processes_go_on_to_the_bit(uninterrupted, forked, tmp_path):
    recipe, overrides = uninterrupted("full")
    for name, stops in (("whole", [None]), ("stopped", [3, 7, None])):
        for stop in stops:
            acts = [] if stop is None else [stops_at(stop, 1)]
            ended = forked.ranks(recipe, [into(tmp_path / name), *overrides], acts=acts)
            assert {each.code for each in ended} == {0 if stop is None else STOPPED}, ended
    assert differences(tmp_path / "stopped", tmp_path / "whole") == []


def same(mine: Path, theirs: Path) -> None:
    """Compare two results file by file, the weights to 1e-6."""
    assert sorted(file.name for file in mine.iterdir()) == sorted(file.name for file in theirs.iterdir())
    for file in sorted(theirs.iterdir()):
        if file.suffix == ".safetensors":
            same_tensors(mine / file.name, file)
        elif file.name == "adapter_config.json":  # peft keeps names in sets
            assert sorted((mine / file.name).read_text()) == sorted(file.read_text())
        elif file.name != "README.md":
            assert (mine / file.name).read_bytes() == file.read_bytes(), file.name


def same_tensors(mine: Path, theirs: Path) -> None:
    here, there = load_file(mine), load_file(theirs)
    assert here.keys() == there.keys()
    for name, tensor in there.items():
        assert here[name].dtype == tensor.dtype
        assert here[name].shape == tensor.shape
        assert (here[name].double() - tensor.double()).abs().max() < 1e-6, name
