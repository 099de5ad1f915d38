"""Files of a run folder that may be absent, cut short or damaged: what can be read of each, and what cannot."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

#: Bytes of the largest file that is read; one that is larger was not written by a run.
_LARGEST = 2**30


class RunFiles:
    """Reads files of one run, and keeps a line for each fault that it finds on the way.

    A file that is absent is not a fault: a run that has just begun lacks most of them, and so does one of an earlier
    version.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []

    def text(self, path: Path) -> str:
        """Return a file's text; empty where there is none."""
        try:
            if path.stat().st_size > _LARGEST:
                self.problems.append(f"{path.name} is too large to be a file of a run: skipped")
                return ""
            return path.read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            return ""
        except OSError as error:
            self.problems.append(f"{path.name} cannot be read: {error.strerror or error}")
            return ""

    def json(self, path: Path) -> dict[str, Any]:
        """Return a JSON object; empty where there is none."""
        return self._object(path, json.loads)

    def toml(self, path: Path) -> dict[str, Any]:
        """Return a TOML document; empty where there is none."""
        return self._object(path, tomllib.loads)

    def lines(self, path: Path, read: Callable[[dict[str, Any]], T]) -> Iterator[T | None]:
        """Yield what ``read`` makes of the object on each line; None for a line that is damaged.

        ``read`` raises a KeyError, TypeError or ValueError for an object that it cannot use. A last line without its
        line end is left out, since the run is about to write the rest of it or was killed meanwhile.
        """
        damaged: list[int] = []
        for number, line in enumerate(self.text(path).split("\n")[:-1], start=1):
            try:
                values = json.loads(line)
                yield read(values) if isinstance(values, dict) else None
                if not isinstance(values, dict):
                    damaged.append(number)
            except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
                damaged.append(number)
                yield None
        if damaged:
            which = ", ".join(map(str, damaged[:5])) + ", …" * (len(damaged) > 5)
            self.problems.append(f"{path.name}: damaged line{'s' * (len(damaged) > 1)} skipped: {which}")

    def _object(self, path: Path, load: Callable[[str], Any]) -> dict[str, Any]:
        text = self.text(path)
        if not text.strip():
            return {}
        try:
            found = load(text)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict):
            return found
        self.problems.append(f"{path.name} is damaged: skipped")
        return {}


def text_of(values: dict[str, Any], key: str) -> str:
    """Return a text of an object.

    Raises:
        KeyError, TypeError: there is none.
    """
    value = values[key]
    if not isinstance(value, str):
        raise TypeError(key)
    return value


def integer_of(values: dict[str, Any], key: str) -> int:
    """Return an integer that is not negative.

    Raises:
        KeyError, TypeError, ValueError: there is none.
    """
    value = values[key]
    if type(value) is not int:
        raise TypeError(key)
    if not 0 <= value < 2**53:
        raise ValueError(key)
    return value


def number_of(values: dict[str, Any], key: str) -> float:
    """Return a number; not a number where the file has null.

    Raises:
        KeyError, TypeError, OverflowError: there is none.
    """
    value = values[key]
    if value is None:
        return float("nan")
    if type(value) not in (int, float):
        raise TypeError(key)
    return float(value)
