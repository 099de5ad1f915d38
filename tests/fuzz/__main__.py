"""Run mutated inputs by the thousand, and print what became of them as JSON."""

import argparse
import faulthandler
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import tests.conftest  # noqa: F401  # no network, and caches in temporary folders
from tests.fuzz.areas import AREAS, fuzz

#: Seconds after which a case is a hang: where it stands is printed, and the process ends.
HANG = 300


def main() -> None:
    """Parse the command line and run the areas that it asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument(
        "cases", type=int, nargs="?", default=10_000, help="of each group: recipes, rows, run files"
    )
    parser.add_argument(
        "--only", choices=[*AREAS], action="append", help="an area; may be given several times"
    )
    arguments = parser.parse_args()
    found = {}
    for name in arguments.only or AREAS:
        begun = time.perf_counter()
        cases = max(1, round(AREAS[name].of_all * arguments.cases))
        with tempfile.TemporaryDirectory(prefix="dpotrain-fuzz-") as folder:
            counts = fuzz(
                AREAS[name], cases, Path(folder), lambda: faulthandler.dump_traceback_later(HANG, exit=True)
            )
        faulthandler.cancel_dump_traceback_later()
        found[name] = _result(AREAS[name].group, counts, time.perf_counter() - begun)
        print(f"{name}: {found[name]}", file=sys.stderr, flush=True)
    print(json.dumps(found, indent=2))


def _result(group: str, counts: Counter[str], seconds: float) -> dict[str, object]:
    accepted = counts.pop("accepted", 0)
    return {
        "group": group,
        "cases": accepted + counts.total(),
        "accepted": accepted,
        "refused": dict(sorted(counts.items())),
        "seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    main()
