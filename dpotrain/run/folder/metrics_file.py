"""``metrics.jsonl``: one JSON object a line, the core's own record of the run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from dpotrain.core.errors import RunError
from dpotrain.core.records import Kind, Record
from dpotrain.run.folder.json_lines import append_line, keep_lines


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
        append_line(self.path, values)

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

    def evaluations(self) -> Iterator[tuple[int, dict[str, float]]]:
        """Yield step and metrics of every evaluation; nothing without a file."""
        for found in self.read() if self.path.exists() else ():
            if isinstance(found, Record) and found.kind == "eval":
                yield found.step, dict(found.metrics)

    def rewind(self, step: int, evaluated: int | None = None) -> None:
        """Drop what was written after ``step``, and a line that was cut short, before a resumed run goes on.

        Of evaluations that after step ``evaluated``, where that is given: a run that was stopped while it evaluated
        repeats the evaluation of its step.
        """
        last = {"eval": step if evaluated is None else evaluated}
        keep_lines(self.path, lambda line: line["step"] <= last.get(line["kind"], step))


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
