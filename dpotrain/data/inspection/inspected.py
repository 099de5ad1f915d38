"""The data as finders see it: reports, facts of the pairs kept, and the texts of single pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dpotrain.data.inspection.facts import Facts, read_texts
from dpotrain.data.inspection.texts import PairTexts
from dpotrain.data.report import DataReport
from dpotrain.data.split_report import FIRST_ROWS, SplitReport
from dpotrain.data.tokens.tokenized import TokenizedPairs
from dpotrain.plugin.api import DatasetFormatter, Rows


@dataclass(frozen=True, slots=True)
class InspectedSplit:
    """One split."""

    name: str
    report: SplitReport
    rows: Rows
    formatter: DatasetFormatter
    facts: Facts
    """(pairs,) of the rows that have a pair left."""
    pairs: Sequence[TokenizedPairs]
    """The pairs left, in one or several parts."""
    evaluated_on: bool
    """Whether it is an evaluation split."""

    def rows_of(self, name: str) -> tuple[int, ...]:
        """Return the first rows of one of the report's counts."""
        return tuple(self.report.first_rows.get(name, ()))

    def longer_rows(self, side: int) -> tuple[int, ...]:
        """Return the first rows whose chosen (side 0) or rejected answer has more tokens than the other."""
        sign = (1, -1)[side]
        found = [part.rows[sign * (part.chosen_lengths - part.rejected_lengths) > 0] for part in self.pairs]
        return tuple(np.sort(np.concatenate(found))[:FIRST_ROWS].tolist())

    def texts(self, fact: Any) -> PairTexts:
        """Read the texts of one of the facts again."""
        number = int(fact["row"])
        return read_texts(self.formatter, self.rows[number], number)[int(fact["nth"])]


@dataclass(frozen=True, slots=True)
class PairSet:
    """The pairs of a split that are trained on, or evaluated on."""

    split: InspectedSplit
    places: npt.NDArray[np.int64]
    """(pairs,) in the split's facts."""


@dataclass(frozen=True, slots=True)
class InspectedData:
    """All splits of a recipe."""

    report: DataReport
    splits: tuple[InspectedSplit, ...]
    training: tuple[PairSet, ...]
    """Of the training split of each source."""
    evaluation: tuple[PairSet, ...] = ()
    """Of the same splits, or of others."""
