"""``samples.jsonl``: what the policy answered, one record a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from dpotrain.core.errors import RunError
from dpotrain.core.records import Sample, SamplesRecord
from dpotrain.run.folder.json_lines import append_line, keep_lines


class SamplesFile:
    """Appends records, one for each time that the policy is sampled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, record: SamplesRecord) -> None:
        """Append one line.

        Raises:
            RunError: it cannot be written; :meth:`rewind` drops what there is of it.
        """
        append_line(self.path, record.as_json())

    def read(self) -> Iterator[SamplesRecord | str]:
        """Yield the records in order, and for each line that is none a text that says which; nothing without a file.

        Raises:
            RunError: the file cannot be read.
        """
        if not self.path.exists():
            return
        try:
            with self.path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    try:
                        yield _record(line)
                    except (ValueError, KeyError, TypeError, RecursionError):
                        yield f"{self.path}:{number} is no record of samples"
        except OSError as error:
            raise RunError(f"{self.path} cannot be read: {error.strerror or error}") from error

    def rewind(self, step: int) -> None:
        """Drop what was written after ``step``, and a line that was cut short, before a resumed run goes on."""
        keep_lines(self.path, lambda line: line["step"] <= step)


def _record(line: bytes) -> SamplesRecord:
    values = json.loads(line)
    step, samples = values["step"], [Sample(each["prompt"], each["answer"]) for each in values["samples"]]
    texts = [text for each in samples for text in (each.prompt, each.answer)]
    if type(step) is not int or step < 0 or not all(isinstance(text, str) for text in texts):
        raise ValueError("a value is of the wrong type")
    return SamplesRecord(step, samples)
