"""The command line of benchmarks that measure dpotrain alone, a run or more for every cell of a table."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.sides import model_source
from tests.benchmarks.workload import MODES, PRECISIONS, Workload


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def parser(doc: str | None, *, steps: int) -> argparse.ArgumentParser:
    """Return a parser of what all of them take; ``steps`` is how many a run takes by default."""
    made = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    add = made.add_argument
    add("--model", default="demo", help='a folder or hub name, or "demo"')
    add("--steps", type=int, default=steps, help="of each run; the first warms up")
    add("--mode", choices=MODES, default="lora")
    add("--precision", choices=PRECISIONS, default="bf16")
    add("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE", help="for the recipe")
    add("--out", type=Path, help="write everything as JSON")
    return made


def base_of(options: argparse.Namespace, made: argparse.ArgumentParser) -> Workload:
    """Return the workload that cells change; end with an error where a run would only warm up."""
    if options.steps < 2:
        made.error("--steps: at least 2, since the first warms up")
    return Workload(model_source(options.model), "", 0, 1, mode=options.mode, precision=options.precision)


def write(options: argparse.Namespace, cells: Sequence[dict[str, Any]]) -> None:
    """Write the cells where ``--out`` says."""
    if options.out:
        document = {"command": sys.argv, "cells": cells}
        options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
