"""The data as finders see it: reports, facts of the pairs kept, and the texts of single pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dpotrain.data.inspection.facts import Facts, read_texts
from dpotrain.data.inspection.texts import PairTexts
from dpotrain.data.report import DataReport, SplitReport
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
    read_columns: tuple[str, ...]
    unused_columns: tuple[str, ...]
    cut_rows: tuple[int, ...]
    """The first rows with an answer that fills max_length."""
    evaluated_on: bool

    def texts(self, fact: Any) -> PairTexts:
        """Read the texts of one of the facts again."""
        number = int(fact["row"])
        return read_texts(self.formatter, self.rows[number], number)[int(fact["nth"])]


@dataclass(frozen=True, slots=True)
class InspectedData:
    """All splits of a recipe."""

    report: DataReport
    splits: tuple[InspectedSplit, ...]
    training: tuple[InspectedSplit, Facts]
    """The pairs trained on."""
    evaluation: tuple[InspectedSplit, Facts] | None = None
    """The pairs evaluated on, which may be of the same split."""
