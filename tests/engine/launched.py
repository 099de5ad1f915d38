"""Launchers whose ranks are small programs, so that nothing heavy is imported in them."""

import json
import sys
import time
from pathlib import Path

from dpotrain.engine.launching.launch import launch
from dpotrain.engine.launching.processes import RankProcesses
from dpotrain.engine.launching.request import LaunchRequest


def program(folder: Path, code: str) -> list[str]:
    """Return a command that notes its environment, number of start and arguments, and goes on with ``code``."""
    begin = (
        "import json, os, pathlib, signal, sys, time\n"
        f"folder = pathlib.Path({str(folder)!r})\n"
        "rank = int(os.environ['RANK'])\n"
        "start = len(list(folder.glob(f'{rank}-*')))\n"
        "(folder / f'{rank}-{start}').write_text(json.dumps([sys.argv[1:], dict(os.environ)]))\n"
    )
    return [sys.executable, "-I", "-S", "-c", begin + code, "run"]


def starts(folder: Path, rank: int) -> list[tuple[list[str], dict[str, str]]]:
    return [tuple(json.loads(path.read_text())) for path in sorted(folder.glob(f"{rank}-*"))]


def run(folder: Path, code: str, said: list[str], **request) -> tuple[int, RankProcesses]:
    ranks = RankProcesses(program(folder, code))
    return launch(LaunchRequest(2, **request), ranks, {}, said.append), ranks


def until(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.01)
