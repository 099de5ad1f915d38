"""The GPU check.

python -m tests.gpu OUT [--dry] [--stages 1,5] [--minutes 9.5]
python -m tests.gpu --list
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.gpu.stages import STAGES


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu", description="Check on a GPU what only a GPU shows, in stages."
    )
    parser.add_argument("out", nargs="?", type=Path, help="folder for results.jsonl, table.txt and logs")
    parser.add_argument("--stages", type=_numbers, default=list(STAGES), help="numbers, such as 1,5")
    parser.add_argument("--minutes", type=float, default=9.5, help="time for everything together")
    parser.add_argument("--dry", action="store_true", help="every stage's code on a CPU, with tiny shapes")
    parser.add_argument("--list", action="store_true", help="show the stages")
    options = parser.parse_args(given)
    if options.list:
        for stage in STAGES.values():
            print(f"{stage.number:2}  {stage.name:18} at most {stage.limit:3} s; passes if {stage.passes_if}")
        return 0
    if options.out is None:
        parser.error("OUT is missing: the folder for the results")
    from tests.gpu.runner import run

    results = run(options.stages, options.out, options.dry, options.minutes)
    return 0 if all(result.passed for result in results) else 1


def _numbers(text: str) -> list[int]:
    numbers = [int(part) for part in text.split(",")]
    if unknown := [number for number in numbers if number not in STAGES]:
        raise argparse.ArgumentTypeError(f"there is no stage {unknown[0]}")
    return numbers


if __name__ == "__main__":
    sys.exit(main())
