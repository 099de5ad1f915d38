"""The report on one split: what is counted of its rows and pairs, batch by batch, with the first rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dpotrain.data.lengths import Histogram, LengthBias, Lengths

#: Row numbers that are kept of each kind.
FIRST_ROWS = 10
#: Reasons that are counted separately, and the characters kept of each: a reason may quote a row.
_MOST_REASONS = 50
_LONGEST_REASON = 200
OTHER_REASONS = "other reasons"

#: Fields of a split's report that add up.
_COUNTS = (
    *("rows_read", "rows_dropped", "pairs_kept", "boundaries_moved", "prompts_cut", "completions_cut"),
    *("turns_unscored", "open_ended", "plain_text"),
)


@dataclass(slots=True)
class Counted:
    """Rows of which one thing is reported."""

    count: int = 0
    first_rows: list[int] = field(default_factory=list)

    @property
    def rows(self) -> str:
        """The first rows in words: ``(rows 3, 17, …)``."""
        more = ", …" if self.count > len(self.first_rows) else ""
        return f"(row{'s' * (self.count > 1)} {', '.join(map(str, self.first_rows))}{more})"


@dataclass(slots=True)
class Repeats:
    """Pairs that repeat or contradict an earlier one."""

    count: int = 0
    first_rows: list[int] = field(default_factory=list)
    """Rows of the first of them."""
    earlier_rows: list[int] = field(default_factory=list)
    """For each of these, the row of the earlier pair."""

    @classmethod
    def of(cls, rows: npt.NDArray[np.int64], earlier: npt.NDArray[np.int64]) -> Repeats:
        """Return the report on pairs of these (pairs,) ``rows``, each with the row of its ``earlier`` pair."""
        return cls(len(rows), rows[:FIRST_ROWS].tolist(), earlier[:FIRST_ROWS].tolist())

    def places(self) -> str:
        """Return the rows as text: ``rows 7 (as 2), 9 (as 2), …``."""
        both = zip(self.first_rows, self.earlier_rows, strict=True)
        shown = ", ".join(f"{row} (as {earlier})" for row, earlier in both)
        return f"row{'s' * (self.count > 1)} {shown}{', …' * (self.count > len(self.first_rows))}"


@dataclass(slots=True)
class SplitReport:
    """The report on one split."""

    rows_read: int = 0
    rows_dropped: int = 0
    """Rows of which no pair is kept."""
    pairs_kept: int = 0
    dropped: dict[str, Counted] = field(default_factory=dict)
    """Rows and single pairs of rows that are dropped, by the reason."""
    notes: dict[str, Counted] = field(default_factory=dict)
    """Pairs kept, by what the person should know of them."""
    boundaries_moved: int = 0
    """Pairs kept whose prompt was not a token prefix of both answers."""
    prompts_cut: int = 0
    """Pairs kept whose prompt is cut at its start, at max_prompt_length or max_length."""
    completions_cut: int = 0
    """Completions of the pairs kept that are cut at max_length."""
    turns_unscored: int = 0
    """Assistant turns inside completions that are not fully scored, because the chat template rewrites them."""
    open_ended: int = 0
    """Completions of the pairs kept that do not end in a special token."""
    plain_text: int = 0
    """Pairs kept that are plain text, to which no chat template is applied."""
    first_rows: dict[str, list[int]] = field(default_factory=dict)
    """The first rows of what is counted, by the name of the count."""
    unused_columns: dict[str, int] = field(default_factory=dict)
    """Columns with text that nothing reads, with the rows of the pairs kept or dropped that have some."""
    shortest_prompt: int | None = None
    """Tokens of the shortest prompt of all tokenized pairs."""
    lengths: Lengths = field(default_factory=dict)
    """Quantiles of tokens in the pairs kept, by part (see :func:`quantiles`)."""
    uncut_lengths: Lengths = field(default_factory=dict)
    """The same of all tokenized pairs, before any is cut or dropped: the basis for choosing max_length."""
    histogram: Histogram = field(default_factory=dict)
    """Tokens of the prompt with its longer answer, before any is cut or dropped (see :func:`histogram`)."""
    length_bias: LengthBias = field(default_factory=LengthBias)
    """Of the pairs kept."""
    duplicates: Repeats = field(default_factory=Repeats)
    """Pairs kept whose tokens are those of an earlier pair."""
    contradictions: Repeats = field(default_factory=Repeats)
    """Pairs kept that prefer the answer that an earlier pair of the same prompt and answers rejects."""

    def drop(self, row: int, reason: str) -> None:
        """Count a dropped row, or a dropped pair of it."""
        _count(self.dropped, reason, [row])

    def note(self, row: int, text: str) -> None:
        """Count a pair that is kept."""
        _count(self.notes, text, [row])

    def count(self, row: int, name: str, number: int) -> None:
        """Add to one of the counts what a row has of it."""
        if number:
            setattr(self, name, getattr(self, name) + number)
            rows = self.first_rows.setdefault(name, [])
            if len(rows) < FIRST_ROWS and row not in rows:
                rows.append(row)

    def leave_unused(self, column: str, rows: int = 1) -> None:
        """Count rows with text in a column that nothing reads."""
        column = " ".join(column[:_LONGEST_REASON].encode("utf-8", "replace").decode().split())
        if column in self.unused_columns or len(self.unused_columns) < _MOST_REASONS:
            self.unused_columns[column] = self.unused_columns.get(column, 0) + rows

    def add(self, part: SplitReport) -> None:
        """Add the counts of the rows that follow; what is known of a whole split only is not merged."""
        for mine, theirs in ((self.dropped, part.dropped), (self.notes, part.notes)):
            for text, counted in theirs.items():
                _count(mine, text, counted.first_rows, counted.count)
        for column, number in part.unused_columns.items():
            self.leave_unused(column, number)
        for name, rows in part.first_rows.items():
            known = self.first_rows.setdefault(name, [])
            known += rows[: FIRST_ROWS - len(known)]
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(part, name))

    @classmethod
    def restored(cls, plain: dict[str, Any]) -> SplitReport:
        """Return the report from the plain data of ``dataclasses.asdict``."""
        typed: dict[str, Any] = {
            name: {text: Counted(**one) for text, one in plain[name].items()} for name in ("dropped", "notes")
        }
        typed["length_bias"] = LengthBias(**plain["length_bias"])
        typed |= {name: Repeats(**plain[name]) for name in ("duplicates", "contradictions")}
        return cls(**{**plain, **typed})

    def drop_lines(self) -> list[str]:
        """Return one line for each reason, the most frequent first."""
        return [
            f"{dropped.count} dropped: {reason} {dropped.rows}"
            for reason, dropped in sorted(self.dropped.items(), key=lambda item: -item[1].count)
        ]

    def as_json(self) -> dict[str, Any]:
        """Return plain data for the report file."""
        plain = asdict(self)
        del plain["shortest_prompt"]
        return plain


def _count(counts: dict[str, Counted], text: str, rows: list[int], count: int = 1) -> None:
    """Add rows to those of this text, or of all others where there are too many texts."""
    text = " ".join(text[:_LONGEST_REASON].encode("utf-8", "replace").decode().split())
    if text not in counts and len(counts) >= _MOST_REASONS:
        text = OTHER_REASONS
    found = counts.setdefault(text, Counted())
    found.count += count
    new = [row for row in rows if row not in found.first_rows]  # a row may give several pairs
    found.first_rows += new[: FIRST_ROWS - len(found.first_rows)]
