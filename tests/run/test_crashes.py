"""SIGKILL at random instants and at every named point of a save: the run that is resumed is the uninterrupted one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.run.recipes import project

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
def test_killed_again_and_again_it_ends_in_the_same_bits(tmp_path, adapter):
    """TRAPS: no trainer surveyed tests a kill during a save."""
    recipe = project(tmp_path, adapter=adapter)
    more = "\n[checkpoints]\nevery = 1\nkeep = 2\n[evaluation]\nevery = 4\n"
    recipe.write_text(recipe.read_text() + ("dropout = 0.2\n" if adapter else "") + more)
    command = [
        sys.executable,
        "-m",
        "tests.run.crashing",
        str(recipe),
        str(tmp_path / "runs"),
        "--kills",
        "13",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kills"] >= 13
    assert found["wrong"] == []
