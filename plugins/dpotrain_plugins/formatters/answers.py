"""What the two answers of a row are, judged without reading them: for the formatters' ``recognises``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dpotrain_plugins.formatters.messages import Row


def answers_are(row: Row, test: Callable[[Any], bool]) -> bool:
    """Whether both answers pass the test, where one that is None or empty is judged by the other."""
    present = [value for value in (row.get("chosen"), row.get("rejected")) if value]
    return bool(present) and "chosen" in row and "rejected" in row and all(test(value) for value in present)


def is_text(value: Any) -> bool:
    """Whether the value is a string."""
    return isinstance(value, str)
