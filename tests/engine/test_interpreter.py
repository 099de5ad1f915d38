"""Triton kernels are tested without a GPU: in Triton's interpreter, on CPU tensors.

In a process of its own, because Triton looks at the variable as it is imported.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.mark.parametrize("selected", ["not soak", pytest.param("soak", marks=pytest.mark.soak)])
@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels' tests run on the GPU")
def test_kernels_in_the_interpreter(selected, tmp_path):
    pytest.importorskip("triton", reason="needs triton, which comes with the extra test on Linux")
    tests = Path(__file__).parent / "kernels"
    options = [
        "-q",
        "-m",
        selected,
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        f"--basetemp={tmp_path / 'pytest'}",
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tests)],
        cwd=Path(__file__).parents[2],
        env={**environment, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout
