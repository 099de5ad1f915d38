"""Starting the sides: each time a fresh process with caches of its own, so that no run profits from an earlier one."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.workload import Workload

ROOT = Path(__file__).parent.parent.parent
#: The model that comes with dpotrain: a folder like any other that transformers loads.
DEMO = ROOT / "plugins" / "dpotrain_plugins" / "demo" / "model"


def model_source(name: str) -> str:
    """Return what the sides load: "demo" is the model that comes with dpotrain, a folder is made absolute."""
    if name == "demo":
        return str(DEMO)
    return str(Path(name).resolve()) if Path(name).is_dir() else name


class SideFailed(Exception):
    """A process ended without a result; the text is the end of what it said."""


def prepare(workload: Workload, synthetic: Sequence[float] | None = None) -> dict[str, Any]:
    """Return the facts of a workload, after writing its data where ``synthetic`` says how."""
    more = [] if synthetic is None else ["--synthetic", *map(str, synthetic)]
    return _run(sys.executable, "prepare", workload, more)


def run_dpotrain(
    workload: Workload, overrides: Sequence[str] = (), *, phases: bool = False
) -> dict[str, Any]:
    more = [f"--set={override}" for override in overrides] + ["--phases"] * phases
    return _run(sys.executable, "dpotrain_side", workload, more)


def run_trl(
    workload: Workload, python: str, *, checkpointing: bool = False, precompute: bool = False
) -> dict[str, Any]:
    more = ["--checkpointing"] * checkpointing + ["--precompute"] * precompute
    return _run(python, "trl_side", workload, more)


def why_no_trl(python: str) -> str | None:
    """Return why an interpreter cannot run TRL's side, or None where it can."""
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('trl') is None)"
    try:
        missing = subprocess.run([python, "-c", code], capture_output=True, check=False).returncode
    except OSError as error:
        return f"{python} cannot be run: {error.strerror}"
    if missing:
        return f"TRL is not installed in {python}; name an interpreter that has it with --trl-python"
    return None


def _run(python: str, module: str, workload: Workload, more: Sequence[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="dpotrain-benchmark-") as scratch:
        folder = Path(scratch)
        workload.write(folder / "workload.json")
        command = [python, "-m", f"tests.benchmarks.{module}", str(folder / "workload.json")]
        environment = {
            **os.environ,
            "XDG_CACHE_HOME": str(folder / "cache"),
            "HF_DATASETS_CACHE": str(folder / "datasets"),
            # Where XDG_CACHE_HOME decides it, the models would be looked for in the fresh cache too.
            "HF_HOME": os.environ.get("HF_HOME", str(_cache_home() / "huggingface")),
            "TOKENIZERS_PARALLELISM": "false",
        }
        done = subprocess.run(
            [*command, str(folder / "result.json"), *more],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or not (folder / "result.json").is_file():
            raise SideFailed((done.stdout[-1000:] + done.stderr[-3000:]).strip())
        result: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        return result


def _cache_home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
