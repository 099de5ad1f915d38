"""Every stage's code runs on a CPU, so that the little time on a GPU is not spent on mistakes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.gpu.checkout import ROOT
from tests.gpu.stages import STAGES


@pytest.mark.soak
def test_every_stage_passes_with_tiny_shapes(tmp_path):
    command = [sys.executable, "-m", "tests.gpu", str(tmp_path), "--dry"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = (tmp_path / "results.jsonl").read_text(encoding="utf-8").splitlines()
    results = [json.loads(line) for line in lines]
    assert [result["stage"] for result in results] == list(STAGES)
    assert [result["error"] for result in results] == [""] * len(STAGES), done.stdout + done.stderr
    assert done.returncode == 0
    for result in results:
        assert result.keys() == {"stage", "name", "passed", "seconds", "figures", "error"}
        assert result["figures"]
        assert result["name"] in (tmp_path / "table.txt").read_text(encoding="utf-8")


def test_the_stages_are_listed():
    command = [sys.executable, "-m", "tests.gpu", "--list"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [int(line.split()[0]) for line in told.splitlines()] == list(range(12))
