"""Rows as formatters see them: columns renamed by ``[data.columns]``, at most ``data.limit`` rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dpotrain.core.errors import DataError, did_you_mean
from dpotrain.plugin.api import Rows


@dataclass(frozen=True, slots=True)
class MappedRows:
    """A source's first ``length`` rows, with ``[data.columns]`` applied."""

    source: Rows
    mapping: Mapping[str, str]
    """The formatter's column name to the data's."""
    length: int

    @property
    def fingerprint(self) -> str:
        """The source's: it identifies the content, not the view."""
        return self.source.fingerprint

    @property
    def columns(self) -> list[str]:
        """Column names after mapping."""
        moved = set(self.mapping.values())
        kept = [name for name in self.source.columns if name not in moved and name not in self.mapping]
        return [*self.mapping, *kept]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int, /) -> Mapping[str, Any]:
        row = self.source[index]
        if not self.mapping:
            return row
        moved = set(self.mapping.values())
        mapped = {canonical: row.get(actual) for canonical, actual in self.mapping.items()}
        # A mapped column must not be recognised under its old name too.
        return mapped | {name: v for name, v in row.items() if name not in moved and name not in mapped}


def map_columns(rows: Rows, mapping: Mapping[str, str], limit: int | None, split: str) -> MappedRows:
    """Return at most ``limit`` rows with columns renamed; raise a DataError for a missing column."""
    for canonical, actual in mapping.items():
        if rows.columns and actual not in rows.columns:
            raise DataError(
                f'[data.columns] {canonical} = "{actual}": split "{split}" has no such column'
                f"{did_you_mean(actual, rows.columns)}\nIts columns are: {', '.join(rows.columns)}."
            )
    return MappedRows(rows, dict(mapping), len(rows) if limit is None else min(limit, len(rows)))
