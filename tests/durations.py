"""How long each file of tests takes, as recorded in ``durations.json``: the longest files are run first.

    python -m pytest -n auto --dist loadfile --record-durations          # and once more with -m soak

writes anew what it has run. A worker that gets a long file last keeps all others waiting; pytest-xdist by itself sorts
files by their number of tests, which says nothing about their time.
"""

import json
from collections import Counter
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILE = HERE / "durations.json"

#: Seconds of tests that the quick part may take; with a process of pytest on each of two cores about eight minutes.
#: What makes it longer is marked ``soak``, or something else is.
QUICK_SECONDS = 920

#: Seconds by part ("quick", "soak") and file, both parts in one process of two on a two-core machine.
Durations = dict[str, dict[str, int]]


def part_of(item: pytest.Item | pytest.TestReport) -> str:
    return "soak" if "soak" in item.keywords else "quick"


def file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def recorded() -> Durations:
    durations: Durations = json.loads(FILE.read_text(encoding="utf-8"))
    return durations


def longest_first(items: list[pytest.Item], durations: Durations) -> None:
    """Sort tests by the recorded time of their file's selected part; a file without one comes first."""
    chosen = {(part_of(item), file_of(item.nodeid)) for item in items}
    seconds: Counter[str] = Counter()
    for part, file in chosen:
        seconds[file] += durations[part].get(file, 1000)
    items.sort(key=lambda item: (-seconds[file_of(item.nodeid)], file_of(item.nodeid)))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record-durations", action="store_true", help="Write the seconds of each file to durations.json."
    )


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False
    if config.getoption("--record-durations") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder())


@pytest.hookimpl(trylast=True)  # when the unselected ones have gone
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        longest_first(items, recorded())


class Recorder:
    """Adds up what tests took, in whatever process they ran."""

    def __init__(self) -> None:
        self.seconds: dict[str, Counter[str]] = {"quick": Counter(), "soak": Counter()}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[part_of(report)][file_of(report.nodeid)] += report.duration

    def pytest_sessionfinish(self) -> None:
        durations = recorded()
        for part, seconds in self.seconds.items():
            now = durations[part] | {file: round(taken) for file, taken in seconds.items()}
            there = sorted(file for file in now if (HERE.parent / file).exists())
            durations[part] = {file: now[file] for file in there}
        FILE.write_text(json.dumps(durations, indent=1) + "\n", encoding="utf-8")
