"""Runs that are killed again and again, and resumed until they are done.

    python -m tests.run.crashing RECIPE FOLDER --kills 200 --seed 1

A child process is forked for every start, so that only the first pays for the imports, and takes SIGKILL at a random
instant or at a named point of a save. When a run has got to its end it must be the uninterrupted one, bit for bit:
final weights, optimizer state, every line of its metrics but for speeds. Then the next run begins, until there were as
many kills as asked for. Prints one JSON object; exits with 1 where anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

# What a start would import is imported here, once for all of them.
import bitsandbytes  # noqa: F401
import datasets  # noqa: F401
import peft  # noqa: F401
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM  # noqa: F401

from dpotrain import load_recipe, train
from dpotrain.core.reporter import SilentReporter
from dpotrain.run.checkpoint import files as checkpoints

#: Names in a metrics line that are about the machine and not about the run.
SPEED = {"pairs_per_second", "tokens_per_second", "peak_memory_mb"}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before_write() -> None:
    checkpoints.save = lambda *_: die()


def between_files() -> None:
    import safetensors.torch

    ordinary = safetensors.torch.save_file

    def save_one_file(*args, **kwargs):
        ordinary(*args, **kwargs)
        die()

    safetensors.torch.save_file = save_one_file


def before_manifest() -> None:
    checkpoints._described = lambda file: die()


def _around_rename(kill: Callable[[Callable[[], Path]], None]) -> None:
    ordinary = Path.replace

    def replace(self, target):
        if checkpoints.NAME.fullmatch(Path(target).name):
            kill(lambda: ordinary(self, target))
        return ordinary(self, target)

    Path.replace = replace


def before_rename() -> None:
    _around_rename(lambda rename: die())


def after_rename() -> None:
    def rename_and_die(rename):
        rename()
        die()

    _around_rename(rename_and_die)


def during_pruning() -> None:
    ordinary = shutil.rmtree

    def remove_half(path, *args, **kwargs):
        if Path(path).name.endswith(".old"):
            next(Path(path).iterdir()).unlink()
            die()
        return ordinary(path, *args, **kwargs)

    checkpoints.shutil.rmtree = remove_half


POINTS = (before_write, between_files, before_manifest, before_rename, after_rename, during_pruning)


def at_random(longest: float) -> Callable[[], None]:
    """Die some time within ``longest`` seconds."""
    delay = random.uniform(0, longest)

    def arm() -> None:
        timer = threading.Timer(delay, die)
        timer.daemon = True
        timer.start()

    return arm


def start(recipe: Path, folder: Path, arm: Callable[[], None] | None) -> int:
    """Fork a child that goes on with the run in ``folder``; return how it ended, as ``os.waitstatus_to_exitcode``."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        torch.set_num_threads(1)
        if arm is not None:
            arm()
        overrides = [f"run.output_dir={str(folder)!r}"]
        outcome = train(load_recipe(recipe, overrides), resume=True, reporter=SilentReporter())
        os._exit(0 if outcome.status == "finished" else 3)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(4)


def facts(folder: Path) -> dict[str, object]:
    """Return everything that must be the same, and nothing else."""
    newest, damaged = checkpoints.newest(folder / "checkpoints")
    assert newest is not None
    assert not damaged
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    (final,) = (folder / "final").glob("*.safetensors")
    return {
        "final": final.read_bytes(),
        "trained": (newest / "trained.safetensors").read_bytes(),
        "optimizer": (newest / "optimizer.safetensors").read_bytes(),
        "components": (newest / "components.safetensors").read_bytes(),
        "metrics": [{name: line[name] for name in line if name not in SPEED} for line in lines],
        "kept": sorted(path.name for path in (folder / "checkpoints").iterdir()),
    }


def soak(recipe: Path, folder: Path, kills: int, seed: int) -> dict[str, object]:
    """Kill runs of ``recipe`` until there were so many ``kills``; return how often each was, and what differed."""
    random.seed(seed)
    began = time.perf_counter()
    assert start(recipe, folder / "whole", None) == 0
    longest = time.perf_counter() - began
    whole = facts(folder / "whole")
    done: Counter[str] = Counter()
    runs, wrong = 0, []
    while done.total() < kills:
        run = folder / f"run-{runs}"
        runs += 1
        while True:
            # Each named point as often as a random instant; the last start of a run is left alone.
            point = random.choice([*POINTS, None]) if done.total() < kills else None
            arm = point or (at_random(longest) if done.total() < kills else None)
            ended = start(recipe, run, arm)
            if ended == -signal.SIGKILL:
                done["random instant" if point is None else point.__name__] += 1
                continue
            if ended:
                wrong.append(f"{run.name}: a start ended with {ended}")
            break
        now = facts(run) if not wrong else whole
        wrong += [f"{run.name}: {name} differs" for name in whole if now[name] != whole[name]]
        if wrong:
            break
        shutil.rmtree(run)
    return {"runs": runs, "kills": done.total(), "at": dict(done), "wrong": wrong}


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill a run again and again.")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    found = soak(options.recipe, options.folder, options.kills, options.seed)
    print(json.dumps(found))
    return int(bool(found["wrong"]))


if __name__ == "__main__":
    sys.exit(main())
