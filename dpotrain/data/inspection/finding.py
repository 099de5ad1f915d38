"""A finding: something about the data that the user should know, with its count, its first rows and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dpotrain.core.formats import count as counted
from dpotrain.core.formats import share as percent
from dpotrain.data.inspection.facts import Facts
from dpotrain.data.split_report import FIRST_ROWS

Severity = Literal["serious", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("serious", "warning", "note")


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding in one split."""

    kind: str
    severity: Severity
    split: str
    text: str
    """What was found, with its count: one line."""
    count: int
    share: float
    """``count`` as a share, from 0 to 1, of the pairs, rows or answers that could have it."""
    remedy: str
    """What to do: one line."""
    rows: tuple[int, ...] = ()
    """The first rows that it is about."""
    earlier_rows: tuple[int, ...] = ()
    """For each of these, the row that it repeats or contradicts; empty where there is none."""
    accuracy: float | None = None
    """How often this alone tells the chosen answer from the rejected one; a tie counts half."""

    def as_json(self) -> dict[str, Any]:
        """Return plain data, without what does not apply."""
        lists = {name: list(getattr(self, name)) for name in ("rows", "earlier_rows")}
        return {name: value for name, value in {**asdict(self), **lists}.items() if value not in ([], None)}


def by_share(value: float, warning: float, serious: float) -> Severity:
    """Return the severity of a share or accuracy: a note below ``warning``."""
    return "serious" if value >= serious else "warning" if value >= warning else "note"


def of(number: int, total: int, what: str) -> str:
    """Return ``3 of 120 pairs (2.5 %)``."""
    return f"{counted(number)} of {counted(total)} {what} ({percent(number / total)})"


def first_rows(facts: Facts, which: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    """Return the first rows of the (pairs,) facts for which ``which`` is true."""
    return rows_at(facts, np.flatnonzero(which))


def rows_at(facts: Facts, places: Sequence[int] | npt.NDArray[np.int64]) -> tuple[int, ...]:
    """Return the rows of the first of these places."""
    return tuple(facts["row"][places[:FIRST_ROWS]].tolist())
