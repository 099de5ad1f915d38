"""Runs that are killed again and again, and resumed until they are done.

    python -m tests.run.crashing RECIPE FOLDER --kills 200 --seed 1

Every start takes SIGKILL at a random instant or at a named point of a save. When a run has got to its end it must be
the uninterrupted one, bit for bit: final weights, optimizer state, every line of its metrics but for speeds. Then the
next run begins, until there were as many kills as asked for. Prints one JSON object; exits with 1 if anything differs.
"""

import argparse
import json
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from dpotrain.run.checkpoint import files as checkpoints
from tests.run.acts import SAVE_POINTS
from tests.run.forked import Forked

#: Names in a metrics line that are about the machine and not about the run.
SPEED = {"pairs_per_second", "tokens_per_second", "peak_memory_mb"}


def facts(folder: Path) -> dict[str, object]:
    """Return everything that must be the same, and nothing else."""
    newest, damaged = checkpoints.newest(folder / "checkpoints")
    assert newest is not None
    assert not damaged
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    (final,) = (folder / "final").glob("*.safetensors")
    tensors = {file.stem: file.read_bytes() for file in newest.glob("*.safetensors")}
    return {
        "final": final.read_bytes(),
        **tensors,
        "metrics": [{name: line[name] for name in line if name not in SPEED} for line in lines],
        "kept": sorted(path.name for path in (folder / "checkpoints").iterdir()),
    }


def kill_again_and_again(
    forked: Forked, recipe: Path, folder: Path, kills: int, seed: int
) -> dict[str, object]:
    """Kill runs of ``recipe`` until there were so many ``kills``; return how often each was, and what differed."""
    draw = random.Random(seed)

    def start(run: Path, *acts: list[object]) -> int:
        return forked.run(recipe, [f"run.output_dir={str(run)!r}"], acts=acts).code

    began = time.perf_counter()
    assert start(folder / "whole") == 0
    longest = time.perf_counter() - began
    whole = facts(folder / "whole")
    # Each point of a save as often as a random instant.
    points = [*SAVE_POINTS, "random instant"]
    done: Counter[str] = Counter()
    runs, wrong = 0, []
    while done.total() < kills and not wrong:
        run = folder / f"run-{runs}"
        runs += 1
        ended = -signal.SIGKILL
        while ended == -signal.SIGKILL and done.total() < kills:
            point = draw.choice(points)
            at_random = ["die_within", draw.uniform(0, longest)]
            ended = start(run, at_random if point == "random instant" else ["die_at", point])
            done[point] += ended == -signal.SIGKILL
        if ended == -signal.SIGKILL:
            ended = start(run)  # the last start of all is left alone
        if ended:
            wrong.append(f"{run.name}: a start ended with {ended}")
        else:
            now = facts(run)
            wrong += [f"{run.name}: {name} differs" for name in whole if now[name] != whole[name]]
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
    forked = Forked()
    found = kill_again_and_again(forked, options.recipe, options.folder, options.kills, options.seed)
    forked.close()
    print(json.dumps(found))
    return int(bool(found["wrong"]))


if __name__ == "__main__":
    sys.exit(main())
