"""A batch of rows to tokenized pairs: the unit of work of one process, the main one or a worker."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dpotrain.core.pair import PreferencePair, UnusableRow
from dpotrain.core.pair_columns import RANGES
from dpotrain.data.formats.read_row import NESTED, read_row
from dpotrain.data.split_report import SplitReport
from dpotrain.data.tokens.keys import Keys, column, prompt_key
from dpotrain.data.tokens.tokenize_pairs import PairTokenizer
from dpotrain.data.tokens.tokenized import TokenizedPairs
from dpotrain.plugin.api import DatasetFormatter

#: A row with its number in the source.
NumberedRow = tuple[int, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class TokenizedRows:
    """The pairs of a batch of rows, and what is reported of it."""

    pairs: TokenizedPairs
    """The pairs kept."""
    prompts: Keys
    """(pairs,) the :func:`prompt_key` of each."""
    uncut: npt.NDArray[np.int64]
    """(tokenized, 3) tokens of prompt, chosen and rejected of every pair that was tokenized, before any cut."""
    report: SplitReport
    """Counts; no lengths."""
    preview: tuple[PreferencePair, ...]
    """The first few of the pairs kept, as formatted."""


@dataclass(frozen=True, slots=True)
class RowTokenizer:
    """Formats rows and tokenizes their pairs."""

    formatter: DatasetFormatter
    tokenizer: PairTokenizer
    preview: int = 0
    """How many pairs of a batch are also returned as formatted."""
    columns: tuple[str, ...] = ()
    """Columns whose numbers the pairs keep."""

    def __call__(self, rows: Sequence[NumberedRow]) -> TokenizedRows:
        """Return the pairs of these rows, and count those that are dropped."""
        report = SplitReport(rows_read=len(rows))
        usable: list[tuple[int, PreferencePair]] = []
        keys: list[bytes] = []
        numbers: list[tuple[float, ...]] = []
        for number, row in rows:
            try:
                read = read_row(self.formatter, row, number)
                asked = [tuple(number_of(pair, row, name) for name in self.columns) for pair in read.pairs]
                keys += [prompt_key(pair.prompt) for pair in read.pairs]
            except UnusableRow as error:
                report.drop(number, str(error))
                continue
            except RecursionError:
                report.drop(number, NESTED)
                continue
            for reason in read.refused:
                report.drop(number, reason)
            for name in read.unused:
                report.leave_unused(name)
            usable += [(number, pair) for pair in read.pairs]
            numbers += asked
        pairs, prompts, uncut = [], [], []
        preview: list[PreferencePair] = []
        tokenized = self.tokenizer(usable)
        for (number, pair), key, found, result in zip(usable, keys, numbers, tokenized, strict=True):
            if result.uncut is not None:
                uncut.append(result.uncut)
            if result.pair is None:
                report.drop(number, result.reason)
                continue
            report.count(number, "boundaries_moved", result.boundary_moved)
            report.count(number, "prompts_cut", result.prompt_cut)
            report.count(number, "completions_cut", result.completions_cut)
            report.count(number, "turns_unscored", result.turns_unscored)
            report.count(number, "open_ended", result.open_ended)
            for note in result.notes:
                report.note(number, note)
            report.plain_text += not pair.conversational
            pairs.append(replace(result.pair, numbers=found))
            prompts.append(key)
            if len(preview) < self.preview:
                preview.append(pair)
        report.pairs_kept = len(pairs)
        report.rows_dropped = len(rows) - len({pair.row for pair in pairs})
        lengths = np.array(uncut, np.int64).reshape(-1, 3)
        return TokenizedRows(
            TokenizedPairs.of(pairs, self.columns), column(prompts), lengths, report, tuple(preview)
        )


def number_of(pair: PreferencePair, row: Mapping[str, Any], column: str) -> float:
    """Return the number that a pair, or else its row, has under a name.

    Raises UnusableRow where it is missing, not finite, or not what a column of that name can have.
    """
    value = pair.numbers.get(column, row.get(column))
    if value is None:
        raise UnusableRow(f"{column} is missing")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UnusableRow(f"{column} is not a finite number")
    least, largest = RANGES.get(column, (-math.inf, math.inf))
    if not least <= value <= largest:
        bounds = [f"at least {least:g}"] * math.isfinite(least) + [f"at most {largest:g}"] * math.isfinite(
            largest
        )
        raise UnusableRow(f"{column} is not {' and '.join(bounds)}")
    return float(value)
