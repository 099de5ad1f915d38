"""Stage 3: the test suite's own tests for CUDA, in processes of their own."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.gpu.checkout import ROOT
from tests.gpu.report import Report


def stage(report: Report) -> None:
    marked = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if "mark.cuda" in path.read_text(encoding="utf-8")
    ]
    # A file whose optional package is missing cannot be collected; the others' tests still run.
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "cuda",
        "-q",
        "-rfE",
        "--tb=short",
        "-p",
        "no:cacheprovider",
    ]
    command += [
        "--continue-on-collection-errors",
        *(["tests/engine/test_cuda.py"] if report.dry else ["-n", "4", *marked]),
    ]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    print(done.stdout)
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""
    report.figure("pytest", last.strip("= "))
    named = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    report.expect(done.returncode == 0, f"pytest ended with code {done.returncode}: {', '.join(named[:10])}")
