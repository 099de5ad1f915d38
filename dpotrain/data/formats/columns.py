"""Rows as the formatters see them: columns under their canonical names, and no more rows than wanted."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dpotrain.core.errors import DataError

if TYPE_CHECKING:
    from dpotrain.plugin.api import Rows


@dataclass(frozen=True, slots=True)
class MappedRows:
    """A source's first ``length`` rows, with ``[data.columns]`` applied."""

    source: Rows
    mapping: Mapping[str, str]
    """Canonical name to the data's own."""
    length: int

    @property
    def fingerprint(self) -> str:
        """The source's own: it names the content, not the view."""
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
        # A column that was mapped away must not be judged under its old name too.
        return mapped | {name: v for name, v in row.items() if name not in moved and name not in mapped}


def map_columns(rows: Rows, mapping: Mapping[str, str], limit: int | None, split: str) -> MappedRows:
    """Return at most ``limit`` rows with columns renamed; raise a DataError for a column not there."""
    for canonical, actual in mapping.items():
        if rows.columns and actual not in rows.columns:
            near = difflib.get_close_matches(actual, rows.columns, n=1)
            hint = f' Did you mean "{near[0]}"?' if near else ""
            raise DataError(
                f'[data.columns] {canonical} = "{actual}": split "{split}" has no such column.{hint}\n'
                f"Its columns are: {', '.join(rows.columns)}."
            )
    return MappedRows(rows, dict(mapping), len(rows) if limit is None else min(limit, len(rows)))
