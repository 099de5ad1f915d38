"""How fast are dpotrain and other trainers on the same model, pairs, precision and step size, and in how much memory?

python -m tests.benchmarks.compare --model DIR --data PAIRS.jsonl --side trl=PYTHON --side swift=PYTHON
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.benchmarks import roofline
from tests.benchmarks.agreement import agreement
from tests.benchmarks.sides import TRAINERS, Side, SideFailed, model_source, prepare, run_dpotrain
from tests.benchmarks.speeds import over_rounds, phases, speeds
from tests.benchmarks.tables import show
from tests.benchmarks.workload import MODES, PRECISIONS, Workload

DPOTRAIN = "dpotrain"


def compare(
    workload: Workload,
    facts: dict[str, Any],
    sides: dict[str, Callable[[], dict[str, Any]]],
    rounds: int,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Run the sides in turn; a side that fails is left out of later rounds, and what it said is kept.

    Each other side is compared with dpotrain, which is the first: whether both did the same work.
    """
    found: dict[str, dict[str, Any]] = {name: {"rounds": [], "figures": []} for name in sides}
    for number in range(1, rounds + 1):
        for name, side in sides.items():
            if "error" in found[name]:
                continue
            say(f"round {number} of {rounds}: {name}, {workload.steps} steps")
            try:
                result = side()
                found[name]["figures"].append(speeds(result, facts, workload.pairs_per_step))
                found[name]["rounds"].append(result)
            except (SideFailed, ValueError) as error:
                found[name]["error"] = str(error)
    ours = found.get(DPOTRAIN, {}).get("rounds")
    tokens = sum(facts["mean_tokens"].values())
    for name, side in found.items():
        if side["figures"]:
            side["summary"] = over_rounds(side["figures"])
            if ours and name != DPOTRAIN:
                side["agreement"] = agreement(
                    ours[0], side["rounds"][0], workload.precision, tokens, workload.pairs_per_step
                )
    return found


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add(
        "--model", default="demo", help='a folder or hub name, or "demo" for the tiny model of the quickstart'
    )
    add("--data", default="synthetic", help='a jsonl file of pairs as lists of messages, or "synthetic"')
    add("--prompt-tokens", type=int, default=96, help="mean of synthetic pairs")
    add("--chosen-tokens", type=int, default=48)
    add("--rejected-tokens", type=int, default=48)
    add("--spread", type=float, default=0.3, help="deviation of the logarithm of synthetic lengths")
    add("--pairs", type=int, default=32)
    add("--pairs-per-step", type=int, default=4)
    add("--mode", choices=MODES, default="lora")
    add("--precision", choices=PRECISIONS, default="bf16")
    add(
        "--full-weights",
        choices=("float32", "bfloat16"),
        default="float32",
        help="what --mode full holds its weights in",
    )
    add("--epochs", type=int, default=1)
    add("--max-length", type=int, default=1024)
    add("--lr", type=float, default=1e-6)
    add("--rounds", type=int, default=3)
    add(
        "--side",
        action="append",
        default=[],
        dest="sides",
        metavar="NAME[+OPTION...]=PYTHON",
        help="another trainer and the interpreter of an environment that has it; may be given again. "
        + "; ".join(f"{name}, with {', '.join(each.options)}" for name, each in TRAINERS.items())
        + ". Unless given, TRL in this interpreter",
    )
    add(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="for dpotrain's recipe",
    )
    add("--out", type=Path, help="write everything as JSON")
    options = parser.parse_args(given)
    try:
        options.sides = [Side.parse(text) for text in options.sides] or [Side("trl", sys.executable)]
    except ValueError as error:
        parser.error(f"--side: {error}")
    if len({side.title for side in options.sides}) < len(options.sides):
        parser.error("--side: one of them is given twice")
    if options.data != "synthetic":
        path = Path(options.data).resolve()
        if not path.is_file():
            parser.error(f"--data: there is no file {path}")
        with path.open(encoding="utf-8") as lines:
            rows = sum(1 for line in lines if line.strip())
        if rows < options.pairs:
            parser.error(f"--pairs {options.pairs}: {path} has {rows}")
        options.data = str(path)
    if options.rounds < 1:
        parser.error("--rounds: at least 1")
    if -(-options.pairs // options.pairs_per_step) * options.epochs < 2:
        parser.error("one step warms up; give --pairs, --pairs-per-step and --epochs for at least two")
    return options


def _sides(
    options: argparse.Namespace, workload: Workload
) -> tuple[dict[str, Callable[[], dict[str, Any]]], dict[str, str]]:
    """Return what runs each side that can be run, and why the others cannot."""
    run: dict[str, Callable[[], dict[str, Any]]] = {
        DPOTRAIN: lambda: run_dpotrain(workload, options.overrides)
    }
    missing = {}
    for side in options.sides:
        if reason := side.why_not():
            missing[side.title] = f"{reason} (--side {side.trainer}=PYTHON names the interpreter)"
        else:
            run[side.title] = partial(side.run, workload)
    return run, missing


def main(given: Sequence[str] | None = None) -> int:
    """Measure, show and write; return 1 where a side failed or did other work than dpotrain."""
    options = arguments(given)
    console = Console()
    say = Console(stderr=True).print
    with tempfile.TemporaryDirectory(prefix="dpotrain-benchmark-") as scratch:
        synthetic = None
        if options.data == "synthetic":
            options.data = str(Path(scratch) / "pairs.jsonl")
            synthetic = (
                options.prompt_tokens,
                options.chosen_tokens,
                options.rejected_tokens,
                options.spread,
            )
        same = (
            *("data", "pairs", "pairs_per_step", "epochs", "max_length", "lr"),
            *("mode", "precision", "full_weights"),
        )
        workload = Workload(model_source(options.model), **{name: getattr(options, name) for name in same})
        say("counting tokens, and measuring the machine")
        try:
            facts = prepare(workload, synthetic)
        except SideFailed as error:
            say(str(error), markup=False)
            return 1
        sides, missing = _sides(options, workload)
        found = compare(workload, facts, sides, options.rounds, say)
        result: dict[str, Any] = {
            "command": [sys.executable, "-m", "tests.benchmarks.compare", *(given or sys.argv[1:])],
            "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "environment": {
                name: os.environ[name] for name in sorted(os.environ) if name.endswith("_NUM_THREADS")
            },
            "model": options.model,
            "workload": {**asdict(workload), "weights": workload.weights},
            "synthetic": synthetic,
            "overrides": options.overrides,
            "facts": facts,
            "sides": found,
            "missing": missing,
        }
        if found[DPOTRAIN]["rounds"]:
            say("one more round of dpotrain, to see where its time goes")
            try:
                instrumented = run_dpotrain(workload, options.overrides, phases=True)
                result["phases_seconds_per_step"] = phases(instrumented)
                result["groups_seconds_per_step"] = instrumented["groups"]
                result["groups_share_of_matrix_product_rate"] = roofline.shares_of_groups(
                    result["workload"], facts, instrumented
                )
                result["roofline"] = roofline.of_result(
                    result["workload"], facts, instrumented, workload.steps_per_epoch
                )
            except SideFailed as error:
                found[DPOTRAIN]["error"] = f"in its instrumented round: {error}"
    show(result, console)
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return int(
        any(
            "error" in side or not side.get("agreement", {"same_work": True})["same_work"]
            for side in found.values()
        )
    )


if __name__ == "__main__":
    sys.exit(main())
