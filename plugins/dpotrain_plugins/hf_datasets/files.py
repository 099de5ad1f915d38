"""Rows of json, jsonl, csv, tsv and parquet files.

JSON and CSV are read here and not through Arrow: rows of one preference file often differ in shape (a turn
with tool calls, a missing key, text in one row and a list in the next), which Arrow refuses or fills with
None, and a column of numbers must stay the text that it was. A broken line is named by file and line.
"""

from __future__ import annotations

import csv
import io
import json
import mmap
import os
from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from dpotrain.plugin.api import DataError
from dpotrain_plugins.hf_datasets.compressed import open_plain, plain_name
from dpotrain_plugins.hf_datasets.documents import document_rows, kind
from dpotrain_plugins.hf_datasets.rows import ArrowRows, content_digest, no_progress_bars

#: Lists and objects inside each other that are read: what handles rows later goes into them step by step.
DEEPEST = 200


#: What may stand between the columns of a table besides what its ending says.
_OTHER_DELIMITERS = (",", ";", "\t", "|")


class _File(Protocol):
    """One file's rows."""

    columns: list[str]

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Mapping[str, Any]: ...


class FileRows:
    """The rows of several files, one after the other."""

    def __init__(self, paths: Sequence[Path], field: str | None = None) -> None:
        self._files = files = [read_file(path, field) for path in paths]
        self._ends = list(accumulate(len(file) for file in files))
        self.columns = list(dict.fromkeys(name for file in files for name in file.columns))
        self.fingerprint = content_digest(paths) + (f" {field}" if field else "")

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int, /) -> Mapping[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        which = bisect_right(self._ends, index)
        return self._files[which][index - (self._ends[which - 1] if which else 0)]


def read_file(path: Path, field: str | None) -> _File:
    """Return a file's rows, of a JSON document those at ``field``.

    Raises a DataError that names the file, and the line where there is one.
    """
    try:
        if not path.stat().st_size:
            raise DataError(f"{path} is empty.")
        name = plain_name(path)
        if name.endswith(".parquet"):
            return _Parquet(path)
        with open_plain(path) as file:
            if name.endswith((".csv", ".tsv")):
                return _Listed(_csv_rows(file, path, "\t" if name.endswith(".tsv") else ","))
            return _json(file, path, field)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error


class _Listed(list[dict[str, Any]]):
    """Rows in memory."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        super().__init__(rows)
        self.columns = list(dict.fromkeys(key for row in rows for key in row))


class _Parquet(ArrowRows):
    """A parquet file, converted once to an Arrow file in the datasets cache."""

    def __init__(self, path: Path) -> None:
        import datasets

        try:
            with no_progress_bars():
                super().__init__(datasets.Dataset.from_parquet(str(path)))
        except Exception as error:
            raise DataError(f"{path} is not a readable parquet file: {error}") from error


class _JsonLines:
    """One JSON object a line, parsed when asked for; all are parsed once at first to find a broken one."""

    def __init__(self, path: Path, content: mmap.mmap) -> None:
        self._content = content
        starts, ends, keys = [], [], dict[str, None]()
        position, size, line = (3 if content[:3] == b"\xef\xbb\xbf" else 0), len(content), 0
        while position < size:
            line += 1
            end = content.find(b"\n", position)
            end = size if end < 0 else end
            if content[position:end].strip():
                row = _parsed(content[position:end], path, line)
                if not isinstance(row, dict):
                    raise DataError(f"{path}, line {line}: {kind(row)} where an object is expected.")
                keys.update(dict.fromkeys(row))
                starts.append(position)
                ends.append(end)
            position = end + 1
        # A million lines are 16 MB this way, and three times as much as lists of numbers.
        self._starts, self._ends = array("q", starts), array("q", ends)
        self.columns = list(keys)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int, /) -> Mapping[str, Any]:
        row: dict[str, Any] = json.loads(self._content[self._starts[index] : self._ends[index]])
        return row


def _json(file: BinaryIO, path: Path, field: str | None) -> _File:
    """Read JSON lines, a JSON array, or an object with a list of rows in it, whatever the name ends in."""
    if not os.fstat(file.fileno()).st_size:
        raise DataError(f"{path} is empty.")
    content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    head = content[:4096].removeprefix(b"\xef\xbb\xbf").lstrip()
    by_lines = not plain_name(path).endswith(".json")
    if not by_lines or field is not None:
        # A name that ends in .json says nothing: several lines, of which the first is an object, are rows.
        end = content.find(b"\n")
        by_lines = end >= 0 and _is_object(content[:end]) and bool(content[end:].strip())
    if by_lines and head[:1] != b"[":
        if field is not None:
            raise DataError(
                f'{path} holds an object a line, and data.field = "{field}" is for a file that is one JSON document.\n'
                "Remove data.field."
            )
        return _JsonLines(path, content)
    return _Listed(document_rows(_parsed(content[:], path, 1), path, field))


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _parsed(text: bytes, path: Path, line: int) -> Any:
    """Parse JSON that begins in ``line`` of the file."""
    try:
        value = json.loads(text.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line += text[: error.start].count(b"\n")
        raise DataError(f"{path}, line {line}: not UTF-8 text.\nSave the file as UTF-8.") from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {line + error.lineno - 1}: not valid JSON: {error.msg} (column {error.colno})."
        ) from error
    except ValueError as error:  # Python's own limit
        raise DataError(f"{path}, line {line}: a number of too many digits.") from error
    except RecursionError:
        value = None
        deep = True
    else:
        deep = text.count(b"[") + text.count(b"{") > DEEPEST and _is_deep(value)
    if deep:
        raise DataError(f"{path}, line {line}: lists and objects more than {DEEPEST} deep.")
    return value


def _is_deep(value: Any) -> bool:
    """Whether lists and objects are nested more than :data:`DEEPEST` deep."""
    inside = [value] if isinstance(value, dict | list) else []
    for _ in range(DEEPEST + 1):
        inside = [
            inner
            for outer in inside
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not inside:
            return False
    return True


def _delimiter(text: io.TextIOWrapper, usual: str) -> str:
    """Return what stands between the columns' names, and rewind: spreadsheets write other things than a comma.

    The usual one, unless the first line then is a single name and another delimiter makes several of it.
    """
    try:
        line = text.readline()
    except UnicodeDecodeError:
        line = ""  # reported as the rows are read
    text.seek(0)
    found = usual
    if _columns(line, usual) == 1:
        found = max((usual, *_OTHER_DELIMITERS), key=lambda each: _columns(line, each))
    return found


def _columns(line: str, delimiter: str) -> int:
    try:
        return max(map(len, csv.reader([line], delimiter=delimiter)), default=0)
    except csv.Error:
        return 0


def _csv_rows(file: BinaryIO, path: Path, delimiter: str) -> list[dict[str, Any]]:
    """Read a table whose first line names the columns; every value stays text."""
    csv.field_size_limit(2**31 - 1)  # answers are longer than the default limit of 128 KiB
    rows = []
    with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        reader = csv.DictReader(text, delimiter=_delimiter(text, delimiter), strict=True)
        try:
            names = list(reader.fieldnames or ())
            twice = [name for at, name in enumerate(names) if name in names[:at]]
            if twice:
                raise DataError(
                    f'{path}, line 1: two columns are named "{twice[0]}".\nRename one of them, or remove it.'
                )
            for row in reader:
                if None in row:
                    raise DataError(
                        f"{path}, line {reader.line_num}: more values than columns.\n"
                        "Put values that hold the delimiter or a line break in double quotes."
                    )
                rows.append(row)
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.reader.line_num}: {error}.") from error
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}, near line {reader.line_num + 1}: not UTF-8 text.\nSave the file as UTF-8."
            ) from error
    return rows
