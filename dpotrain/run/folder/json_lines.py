"""Files of one JSON object a line: a line is complete once written, and a resumed run drops what it repeats."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from dpotrain.core.atomic import write_text
from dpotrain.core.errors import RunError
from dpotrain.core.write_errors import writing

R = TypeVar("R")


def append_line(path: Path, value: Mapping[str, Any]) -> None:
    """Append a line; raise a RunError where it cannot be written, which :func:`keep_lines` drops again."""
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(value, allow_nan=False, ensure_ascii=False) + "\n")


def read_lines(path: Path, parse: Callable[[Any], R], what: str) -> Iterator[R | str]:
    """Yield what ``parse`` makes of each line's object, and for each line that is none a text that says which.

    ``what`` says what a line is; ``parse`` raises ValueError, KeyError or TypeError for another object. Nothing is
    yielded without a file.

    Raises:
        RunError: the file cannot be read.
    """
    if not path.exists():
        return
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield parse(json.loads(line))
                except (ValueError, KeyError, TypeError, RecursionError):
                    yield f"{path}:{number} is no record of {what}"
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}") from error


def keep_lines(path: Path, keep: Callable[[Mapping[str, Any]], bool]) -> None:
    """Drop the lines for whose objects ``keep`` is false, and those that are cut short or no such objects."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            if keep(json.loads(line)):
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    with writing(path):
        write_text(path, "".join(kept))
