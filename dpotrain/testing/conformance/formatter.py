"""The suite for dataset formatters."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from dpotrain.core.pair import UnusableRow
from dpotrain.plugin.api import Recognition
from dpotrain.testing.conformance.component import ComponentConformance, Table
from dpotrain.testing.fixtures import RunRecipe
from dpotrain.testing.runs import FinishedRun

#: What stands in a column of real data sooner or later.
_ODD_VALUES: tuple[Any, ...] = (None, "", " ", [], {}, 5, True, [None], [[]], [{}], {"a": None}, ["text"])


class DatasetFormatterConformance(ComponentConformance):
    """A dataset formatter turns a row into a pair, and says which rows are of its shape."""

    rows: ClassVar[Sequence[Mapping[str, Any]]]
    """Rows that it reads."""

    def test_it_reads_its_rows(self, part: Any) -> None:
        """Each gives a pair that can be learned from, the same every time, and stays as it was."""
        from dpotrain.data.formats.read_row import read_row

        for row in self.rows:
            before = copy.deepcopy(dict(row))
            read = read_row(part, row, 0)
            assert read.pairs
            assert not read.refused
            assert read_row(part, row, 0) == read
            part.format(row)
            assert dict(row) == before, "format() changes the row"

    def test_it_recognises_its_rows(self, part: Any) -> None:
        """Which is how ``format = "auto"`` finds it."""
        for row in self.rows:
            assert Recognition(part.recognises(row)) is not Recognition.NO

    def test_auto_decides_for_it(self, part: Any) -> None:
        """Among all formatters that are installed; what recognises less, or is less certain, loses."""
        from dpotrain.data.formats.choose_formatter import choose_formatter
        from dpotrain.plugin.runtime.manager import PluginManager

        catalogue = PluginManager.from_entry_points().formatters()
        decision = choose_formatter(_Rows(self.rows), catalogue, None, {})
        assert decision.formatter.name == self.component.name, decision.text

    def test_no_row_makes_it_fail_otherwise_than_by_unusable_row(self, part: Any) -> None:
        """``recognises`` never raises, and what ``format`` raises does not quote the data."""
        for row in [*_odd(self.rows), {}]:
            Recognition(part.recognises(row))
            reason = ""
            try:
                part.format(row)
            except UnusableRow as error:
                reason = str(error)
            assert not any(text in reason for text in _texts(row)), f"{reason!r} quotes the row"

    def test_it_reads_no_column_that_it_does_not_name(self, part: Any) -> None:
        """``[data.columns]`` maps those in ``columns``; any other could not be."""
        from dpotrain.data.formats.read_row import WatchedRow

        for row in self.rows:
            watched = WatchedRow(row)
            part.format(watched)
            assert watched.seen <= set(self.component.columns)

    def short_run(self, dpotrain_run: RunRecipe, table: Table, folder: Path) -> FinishedRun:
        """Run two steps over the rows and nothing else."""
        data = folder / "rows.jsonl"
        data.write_text("\n".join(json.dumps(dict(row)) for row in [*self.rows] * 8), encoding="utf-8")
        overrides = ["training.steps=2", "data.eval_fraction=false"]
        return dpotrain_run(self.recipe(table), data=data, overrides=overrides)


class _Rows(list[Mapping[str, Any]]):
    """Rows in memory."""

    fingerprint = "rows"

    @property
    def columns(self) -> list[str]:
        """Those of the first row."""
        return list(self[0])


def _odd(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield every row with every column odd in turn, and without it."""
    for row in rows:
        for column in row:
            yield {key: value for key, value in row.items() if key != column}
            for value in _ODD_VALUES:
                yield {**row, column: value}


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in a row that are long enough to be told from words of a message."""
    if isinstance(value, str) and len(value) > 12:
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)
