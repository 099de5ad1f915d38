"""Rows as formatters see them: columns renamed or left out as the recipe says, at most ``data.limit`` rows."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dpotrain.core.errors import DataError, did_you_mean
from dpotrain.core.messages.values import is_empty
from dpotrain.plugin.api import DatasetSource, Rows
from dpotrain.plugin.api.returns import WrongReturnError, described

_ANSWERS = ("chosen", "rejected")


@dataclass(frozen=True, slots=True)
class MappedRows:
    """A source's first ``length`` rows, with ``[data.columns]`` and ``data.ignore_columns`` applied."""

    source: Rows
    mapping: Mapping[str, str]
    """The formatter's column name to the data's."""
    length: int
    ignored: Collection[str] = ()
    """The data's columns that are left out."""
    brought_by: DatasetSource | None = None
    """The component whose rows they are; None for rows made by hand."""

    @property
    def fingerprint(self) -> str:
        """The source's: it identifies the content, not the view."""
        return self.source.fingerprint

    @property
    def columns(self) -> list[str]:
        """Column names after mapping."""
        moved = {*self.mapping.values(), *self.ignored}
        kept = [name for name in self.source.columns if name not in moved and name not in self.mapping]
        return [*self.mapping, *kept]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int, /) -> Mapping[str, Any]:
        row = _row(self.source, index, self.brought_by)
        if not self.mapping and not self.ignored:
            return _expanded(row)
        # Before and after: a name may be of a column, or of one inside a pair that is stored in a column.
        row = _expanded({name: value for name, value in row.items() if name not in self.ignored})
        moved = {*self.mapping.values(), *self.ignored}
        mapped = {canonical: row.get(actual) for canonical, actual in self.mapping.items()}
        # A mapped column must not be recognised under its old name too.
        return mapped | {name: v for name, v in row.items() if name not in moved and name not in mapped}


def _row(rows: Rows, index: int, brought_by: DatasetSource | None) -> Mapping[str, Any]:
    row = rows[index]
    if not isinstance(row, Mapping):
        raise WrongReturnError(
            f"load returned rows of which row {index} is {described(row)}; it must be a mapping from columns to values",
            brought_by,
        )
    return row


def _expanded(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the row with the columns of a pair that is stored as JSON text, or as an object, in one column.

    A row that has something else under one of their names stays as it is, which no formatter reads.
    """
    if any(name in row for name in _ANSWERS):
        return row
    for name, value in row.items():
        if isinstance(value, str) and '"chosen"' in value and value.lstrip().startswith("{"):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                continue
        if isinstance(value, Mapping) and all(answer in value for answer in _ANSWERS):
            others = {other: one for other, one in row.items() if other != name}
            if any(not is_empty(others.get(key)) and others[key] != one for key, one in value.items()):
                return row
            return {**others, **value}
    return row


def map_columns(
    rows: Rows,
    mapping: Mapping[str, str],
    limit: int | None,
    split: str,
    ignored: Sequence[str] = (),
    brought_by: DatasetSource | None = None,
) -> MappedRows:
    """Return at most ``limit`` rows with columns renamed or left out; raise a DataError for a missing column."""
    named = {f'[data.columns] {canonical} = "{actual}"': actual for canonical, actual in mapping.items()}
    named |= {f'data.ignore_columns = ["{name}"]': name for name in ignored}
    if named and rows.columns:
        known = list(
            dict.fromkeys([*rows.columns, *(_expanded(_row(rows, 0, brought_by)) if len(rows) else ())])
        )
        for written, name in named.items():
            if name not in known:
                raise DataError(
                    f'{written}: split "{split}" has no such column'
                    f"{did_you_mean(name, known)}\nIts columns are: {', '.join(known)}."
                )
    count = len(rows) if limit is None else min(limit, len(rows))
    return MappedRows(rows, dict(mapping), count, tuple(ignored), brought_by)
