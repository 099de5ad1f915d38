"""What a real token costs dpotrain, whatever the length of its pair and the pairs in a step.

    python -m tests.benchmarks.scaling --model DIR --lengths 128,256,512,1024 --pairs-per-step 1,4,16

Every cell is a run of its own over synthetic pairs of one length: half prompt, a quarter each answer. Were the cost
nothing but tokens times a constant, all cells would be the same; attention makes long pairs dearer, and steps of few
tokens cannot fill the machine.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from tests.benchmarks.sides import model_source, prepare, run_dpotrain
from tests.benchmarks.speeds import speeds
from tests.benchmarks.workload import MODES, PRECISIONS, Workload


def measure(
    base: Workload, lengths: Sequence[int], sizes: Sequence[int], steps: int, overrides: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Return a cell for every length and step size: its workload, the machine, and figures as ``compare`` has them."""
    cells = []
    for length in lengths:
        with tempfile.TemporaryDirectory(prefix="dpotrain-benchmark-") as scratch:
            longest = replace(
                base,
                data=str(Path(scratch) / "pairs.jsonl"),
                pairs=steps * max(sizes),
                # Room for what the words and a chat template make of it.
                max_length=2 * length + 64,
            )
            facts = prepare(longest, (length / 2, length / 4, length / 4, 0.0))
            for size in sizes:
                workload = replace(longest, pairs=steps * size, pairs_per_step=size)
                some = {**facts, "pairs": facts["pairs"][: workload.pairs]}
                cells.append(
                    {
                        "length": length,
                        "pairs_per_step": size,
                        "tokens_per_pair": sum(pair["tokens"] for pair in some["pairs"]) / workload.pairs,
                        "machine": facts["machine"],
                        **speeds(run_dpotrain(workload, overrides), some, size),
                    }
                )
    return cells


#: What is shown of the cells, by title.
SHOWN = {"real tokens per second": "tokens_per_second", "peak resident memory in MB": "peak_resident_mb"}


def table(cells: Sequence[dict[str, Any]], title: str) -> Table:
    sizes = list(dict.fromkeys(cell["pairs_per_step"] for cell in cells))
    shown = Table(title=title, box=box.SIMPLE_HEAD)
    shown.add_column("tokens a pair")
    for size in sizes:
        shown.add_column(f"{size} pair{'s' * (size > 1)} a step", justify="right")
    for length in dict.fromkeys(cell["length"] for cell in cells):
        row = [cell for cell in cells if cell["length"] == length]
        shown.add_row(f"{row[0]['tokens_per_pair']:.0f}", *(f"{cell[SHOWN[title]]:,.0f}" for cell in row))
    return shown


def main(given: Sequence[str] | None = None) -> int:
    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--model", default="demo", help='a folder or hub name, or "demo"')
    add("--lengths", type=numbers, default=[64, 128, 256], help="tokens of a pair, without a chat template's")
    add("--pairs-per-step", type=numbers, default=[1, 4, 16])
    add("--steps", type=int, default=5, help="of each run; the first warms up")
    add("--mode", choices=MODES, default="lora")
    add("--precision", choices=PRECISIONS, default="bf16")
    add("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE", help="for the recipe")
    add("--out", type=Path, help="write everything as JSON")
    options = parser.parse_args(given)
    if options.steps < 2:
        parser.error("--steps: at least 2, since the first warms up")
    base = Workload(model_source(options.model), "", 0, 1, mode=options.mode, precision=options.precision)
    cells = measure(base, options.lengths, options.pairs_per_step, options.steps, options.overrides)
    for title in SHOWN:
        Console().print(table(cells, title))
    if options.out:
        options.out.write_text(
            json.dumps({"command": sys.argv, "cells": cells}, indent=1) + "\n", encoding="utf-8"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
