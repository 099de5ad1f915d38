"""SIGKILL at random instants and at every named point of a save: the run that is resumed is the uninterrupted one."""

import random
import signal
from pathlib import Path

import pytest

from tests.run.acts import SAVE_POINTS
from tests.run.crashing import facts, kill_again_and_again
from tests.run.recipes import project


def saving_often(folder: Path, adapter: bool) -> Path:
    recipe = project(folder, adapter=adapter)
    more = "\n[checkpoints]\nevery = 1\nkeep = 2\n[evaluation]\nevery = 4\n"
    recipe.write_text(recipe.read_text() + ("dropout = 0.2\n" if adapter else "") + more)
    return recipe


def test_killed_at_every_point_of_a_save_it_ends_in_the_same_bits(forked, tmp_path):
    """TRAPS: no trainer surveyed tests a kill during a save."""
    recipe = saving_often(tmp_path, adapter=True)
    assert forked.run(recipe).code == 0
    killed = [f"run.output_dir={str(tmp_path / 'killed')!r}"]
    for point in SAVE_POINTS:
        assert forked.run(recipe, killed, acts=[["die_at", point]]).code == -signal.SIGKILL, point
    assert forked.run(recipe, killed, acts=[["die_within", random.uniform(0.05, 0.3)]]).code in (
        0,
        -signal.SIGKILL,
    )
    assert forked.run(recipe, killed).code == 0
    assert facts(tmp_path / "killed") == facts(tmp_path / "run")


@pytest.mark.soak
@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
def test_killed_again_and_again_it_ends_in_the_same_bits(adapter, forked, tmp_path):
    found = kill_again_and_again(forked, saving_often(tmp_path, adapter), tmp_path / "runs", kills=20, seed=0)
    assert found["wrong"] == []
    assert found["kills"] >= 20
