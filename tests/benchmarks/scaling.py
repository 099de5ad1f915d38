"""What a real token costs dpotrain, whatever the length of its pair and the pairs in a step.

    python -m tests.benchmarks.scaling --model DIR --lengths 128,256,512,1024 --pairs-per-step 1,4,16

Every cell is a run of its own over synthetic pairs of one length: half prompt, a quarter each answer. Were the cost
nothing but tokens times a constant, all cells would be the same; attention makes long pairs dearer, and steps of few
tokens cannot fill the machine.
"""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from tests.benchmarks.cells import base_of, numbers, parser, write
from tests.benchmarks.sides import prepare, run_dpotrain
from tests.benchmarks.speeds import speeds
from tests.benchmarks.workload import Workload


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
    options_of = parser(__doc__, steps=5)
    add = options_of.add_argument
    add("--lengths", type=numbers, default=[64, 128, 256], help="tokens of a pair, without a chat template's")
    add("--pairs-per-step", type=numbers, default=[1, 4, 16])
    options = options_of.parse_args(given)
    base = base_of(options, options_of)
    cells = measure(base, options.lengths, options.pairs_per_step, options.steps, options.overrides)
    for title in SHOWN:
        Console().print(table(cells, title))
    write(options, cells)
    return 0


if __name__ == "__main__":
    sys.exit(main())
