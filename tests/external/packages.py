"""The packages in this folder, and what the tests of them share."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from dpotrain.testing import build_tiny_model, example_pairs, write_pairs
from tests.run.forked import Forked

HERE = Path(__file__).parent
NAMES = sorted(folder.name.removeprefix("dpotrain-") for folder in HERE.glob("dpotrain-*"))


def copied(name: str, parent: Path) -> Path:
    """Copy a package into ``parent``, with the model and the data that the recipes name; return its folder."""
    folder = parent / f"dpotrain-{name}"
    shutil.copytree(HERE / folder.name, folder)
    build_tiny_model(folder / "model")
    write_pairs(folder / "pairs.jsonl")
    _write_rows(folder / "held-out.jsonl", example_pairs(40)[32:])
    scored = [
        row | {"prompt": f"Please: {row['prompt']}", "rating_difference": number * 7 % 5 / 2}
        for number, row in enumerate(example_pairs(24))
    ]
    _write_rows(folder / "scored.jsonl", scored)
    if name == "sqlite":
        with closing(sqlite3.connect(folder / "votes.db")) as database:
            database.executescript((folder / "votes.sql").read_text())
    return folder


def dpotrain(installed: Forked, *words: str, folder: Path = HERE, code: int = 0) -> str:
    """Give a command where the packages are installed; return what it said: stderr where it failed."""
    ended = installed.dpotrain(*words, folder=folder)
    assert ended.code == code, ended.output
    return ended.err if code else ended.out


def lines(path: Path) -> list[dict]:
    """Return the objects of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _write_rows(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
