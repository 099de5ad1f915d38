"""``metrics.jsonl``: one JSON object a line, the core's own record of the run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from dpotrain.core.atomic import write_text
from dpotrain.core.errors import RunError
from dpotrain.core.records import Kind, Record
from dpotrain.core.write_errors import writing


class MetricsFile:
    """Appends records; each line is complete once written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, record: Record) -> None:
        """Append one line. A number that is not finite becomes null, since JSON has none.

        Raises:
            RunError: it cannot be written; :meth:`rewind` drops what there is of it.
        """
        values = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in record.as_json().items()
        }
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values, allow_nan=False) + "\n")

    def read(self) -> Iterator[Record | str]:
        """Yield the records in order, and for each line that is none a text that says which and why.

        A number that is null was not finite, and comes back as not a number.

        Raises:
            RunError: the file cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    try:
                        yield read_record(line)
                    except ValueError as error:
                        why = "it is cut short" if not line.endswith(b"\n") else error
                        yield f"{self.path}:{number} is no record: {why}"
        except OSError as error:
            raise RunError(f"{self.path} cannot be read: {error.strerror or error}") from error

    def rewind(self, step: int) -> None:
        """Drop what was written after ``step``, and a line that was cut short, before a resumed run goes on."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
        with writing(self.path):
            write_text(self.path, "".join(kept))


def read_record(line: bytes) -> Record:
    """Undo what :meth:`MetricsFile.write` made of a record; raise a ValueError that says what is wrong."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if not isinstance(values, dict):
        raise ValueError("it is no object")
    kind, step = values.pop("kind", None), values.pop("step", None)
    if kind not in get_args(Kind):
        raise ValueError(f"its kind is {json.dumps(kind)}")
    if type(step) is not int or step < 0:
        raise ValueError(f"its step is {json.dumps(step)}")
    for name, value in values.items():
        if value is None:
            values[name] = math.nan
        elif type(value) not in (int, float):
            raise ValueError(f"its {json.dumps(name)} is no number")
    return Record(kind, step, values)
