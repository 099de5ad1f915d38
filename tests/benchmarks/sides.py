"""Starting the sides: each time a fresh process with caches of its own, so that no run profits from an earlier one."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

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


def prepare(
    workload: Workload, synthetic: Sequence[float] | None = None, *, exact: bool = False
) -> dict[str, Any]:
    """Return the facts of a workload, after writing its data where ``synthetic`` says how.

    With ``exact`` its numbers of tokens include what a chat template adds.
    """
    more = [] if synthetic is None else ["--synthetic", *map(str, synthetic)] + ["--exact"] * exact
    return _run(sys.executable, "prepare", workload, more)


def run_dpotrain(
    workload: Workload,
    overrides: Sequence[str] = (),
    *,
    phases: bool = False,
    prompts_twice: bool = False,
) -> dict[str, Any]:
    more = [f"--set={override}" for override in overrides]
    more += ["--phases"] * phases + ["--prompts-twice"] * prompts_twice
    return _run(sys.executable, "dpotrain_side", workload, more)


@dataclass(frozen=True)
class Trainer:
    """Another trainer."""

    title: str
    package: str
    """What its interpreter must be able to import."""
    options: tuple[str, ...] = ("checkpointing",)
    """Options of its module's command line, ``tests.benchmarks.NAME_side``."""


TRAINERS = {
    "trl": Trainer("TRL", "trl", ("checkpointing", "precompute", "liger")),
    "llamafactory": Trainer("LLaMA-Factory", "llamafactory"),
    "swift": Trainer("ms-swift", "swift"),
}


@dataclass(frozen=True)
class Side:
    """Another trainer with its options, in its own interpreter."""

    trainer: str
    python: str
    options: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``NAME[+OPTION...]=PYTHON``; raises ValueError."""
        named, _, python = text.partition("=")
        name, *options = named.split("+")
        if not python:
            raise ValueError(f"{text!r} is not of the form NAME[+OPTION...]=PYTHON")
        if name not in TRAINERS:
            raise ValueError(f"there is no side {name!r}; there are {', '.join(TRAINERS)}")
        for option in options:
            if option not in (known := TRAINERS[name].options):
                raise ValueError(f"{name} has no option {option!r}; it has {', '.join(known)}")
        # The sides run in the root of the clone; a name without a folder is looked for on the path.
        return cls(name, str(Path(python).absolute()) if os.sep in python else python, tuple(options))

    @property
    def title(self) -> str:
        """What the table calls it."""
        return ", ".join([TRAINERS[self.trainer].title, *self.options])

    def run(self, workload: Workload) -> dict[str, Any]:
        """Run it over a workload; raises SideFailed."""
        return _run(self.python, f"{self.trainer}_side", workload, [f"--{option}" for option in self.options])

    def why_not(self) -> str | None:
        """Return why the interpreter cannot run it, or None where it can."""
        package = TRAINERS[self.trainer].package
        code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
        try:
            missing = subprocess.run([self.python, "-c", code], capture_output=True, check=False).returncode
        except OSError as error:
            return f"{self.python} cannot be run: {error.strerror}"
        return f"{self.python} has no package {package!r}" if missing else None


def _run(python: str, module: str, workload: Workload, more: Sequence[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="dpotrain-benchmark-") as scratch:
        folder = Path(scratch)
        workload.write(folder / "workload.json")
        command = [python, "-m", f"tests.benchmarks.{module}", str(folder / "workload.json")]
        environment = {
            **os.environ,
            "XDG_CACHE_HOME": str(folder / "cache"),
            "HF_DATASETS_CACHE": str(folder / "datasets"),
            "MODELSCOPE_CACHE": str(folder / "modelscope"),
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
