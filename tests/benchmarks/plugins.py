"""How long ``dpotrain plugins`` takes with many light plugins installed, each one loss in a distribution of its own.

python -m tests.benchmarks.plugins --plugins 200 --rounds 9
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

from tests.plugin.fakes import LOSS_MODULE, install


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plugins", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        empty, full = Path(folder) / "empty", Path(folder) / "full"
        empty.mkdir()
        for number in range(given.plugins):
            install(full, f"dpotrain-p{number}", "1.0", mod=LOSS_MODULE.format(name=f"loss-{number}"))
        for site in (empty, full):
            seconds(site)
        rounds = [(seconds(empty), seconds(full)) for _ in range(given.rounds)]
    for label, times in zip(
        ("dpotrain's own plugins", f"and {given.plugins} more"), zip(*rounds, strict=True), strict=True
    ):
        print(f"{label:<24} {median(times):.3f} s ({min(times):.3f} to {max(times):.3f})")


def seconds(site: Path) -> float:
    """Return the wall time of one call, interpreter and imports included."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *sys.path])}
    begun = perf_counter()
    subprocess.run(
        [sys.executable, "-m", "dpotrain", "plugins"], env=environment, check=True, capture_output=True
    )
    return perf_counter() - begun


if __name__ == "__main__":
    main()
