"""``samples.jsonl`` and ``texts.jsonl``: what the policy answered, and the texts of callbacks, one record a line."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from dpotrain.core.records import Sample, SamplesRecord, TextRecord
from dpotrain.run.folder.json_lines import append_line, keep_lines, read_lines

R = TypeVar("R", SamplesRecord, TextRecord)


class _File(ABC, Generic[R]):
    """Appends records, each of a step."""

    what: ClassVar[str]
    """What a line is, for messages."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, record: R) -> None:
        """Append one line.

        Raises:
            RunError: it cannot be written; what there is of it is dropped as a resumed run goes on.
        """
        append_line(self.path, record.as_json())

    def read(self) -> Iterator[R | str]:
        """Yield the records in order (see :func:`.json_lines.read_lines`)."""
        return read_lines(self.path, self._parse, self.what)

    @abstractmethod
    def _parse(self, values: Mapping[str, Any]) -> R:
        """Return the record that a line's object is; raise a ValueError, KeyError or TypeError for another object."""


def samples_of(values: Mapping[str, Any]) -> SamplesRecord:
    """Undo :meth:`SamplesRecord.as_json`; raise a ValueError, KeyError or TypeError for another object."""
    samples = [Sample(each["prompt"], each["answer"]) for each in values["samples"]]
    if not all(isinstance(text, str) for each in samples for text in (each.prompt, each.answer)):
        raise ValueError("a value is of the wrong type")
    return SamplesRecord(_step(values), samples)


def _step(values: Mapping[str, Any]) -> int:
    step = values["step"]
    if type(step) is not int or step < 0:
        raise ValueError("its step is not a number of steps")
    return step


class SamplesFile(_File[SamplesRecord]):
    """One record for each time that the policy is sampled."""

    what = "samples"

    def rewind(self, step: int) -> None:
        """Drop what was written after ``step``, and a line that was cut short, before a resumed run goes on."""
        keep_lines(self.path, lambda line: line["step"] <= step)

    def _parse(self, values: Mapping[str, Any]) -> SamplesRecord:
        return samples_of(values)


class TextsFile(_File[TextRecord]):
    """What callbacks log as texts."""

    what = "texts"

    def rewind(self, tables: int) -> None:
        """Keep the first ``tables`` lines, before a resumed run goes on.

        The step does not tell: what was logged after a checkpoint of the same step is logged again.
        """
        numbers = count()
        keep_lines(self.path, lambda line: next(numbers) < tables)

    def _parse(self, values: Mapping[str, Any]) -> TextRecord:
        rows = [{str(column): cell for column, cell in row.items()} for row in values["rows"]]
        if not isinstance(values["name"], str) or not all(
            isinstance(cell, str | int | float) for row in rows for cell in row.values()
        ):
            raise ValueError("a value is of the wrong type")
        if len({tuple(row) for row in rows}) > 1:
            raise ValueError("the rows have different columns")
        return TextRecord(values["name"], _step(values), rows)
