"""The suite for dataset sources."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dpotrain.core.errors import DataError
from dpotrain.testing.conformance.component import ComponentConformance, Table
from dpotrain.testing.fixtures import RunRecipe
from dpotrain.testing.runs import FinishedRun

#: What a run says that a chat model was given rows of plain text for.
PLAIN = 'data.format = "standard"'


class DatasetSourceConformance(ComponentConformance):
    """A dataset source brings rows: a length, random access, and a fingerprint of the content."""

    def short_run(self, dpotrain_run: RunRecipe, table: Table, folder: Path) -> FinishedRun:
        """Run two steps; where a run asks what is meant by plain text, it is taken as it stands."""
        try:
            return super().short_run(dpotrain_run, table, folder)
        except DataError as error:
            if PLAIN not in str(error):
                raise
        return dpotrain_run(self.recipe(table), overrides=["training.steps=2", "data.format=standard"])

    def test_it_names_its_splits(self, part: Any) -> None:
        """Each once."""
        splits = part.splits()
        assert splits
        assert len(set(splits)) == len(splits)
        assert all(isinstance(split, str) for split in splits)

    def test_rows_are_plain_data_in_any_order(self, part: Any) -> None:
        """A mapping for every number below the length, with no key that is not among the columns."""
        for split in part.splits():
            rows = part.load(split)
            assert len(rows) > 0
            backwards = [rows[number] for number in reversed(range(len(rows)))]
            for number, row in enumerate(reversed(backwards)):
                assert isinstance(row, Mapping)
                assert row.keys() <= set(rows.columns)
                assert json.loads(json.dumps(dict(row))) is not None
                assert rows[number] == row

    def test_the_same_rows_come_every_time(self, part: Any) -> None:
        """Tokenized rows, and a resumed run, go by the fingerprint."""
        for split in part.splits():
            first, second = part.load(split), part.load(split)
            assert first.fingerprint
            assert first.fingerprint == second.fingerprint
            assert [first[number] for number in range(len(first))] == [
                second[number] for number in range(len(second))
            ]

    def test_splits_with_other_rows_have_another_fingerprint(self, part: Any) -> None:
        """The fingerprint is of the content."""
        contents: dict[str, list[Any]] = {}
        for split in part.splits():
            rows = part.load(split)
            content = [dict(rows[number]) for number in range(len(rows))]
            assert contents.setdefault(rows.fingerprint, content) == content

    def test_a_split_that_is_not_there_is_answered_with_those_that_are(self, part: Any) -> None:
        """By a DataError: exit code 3."""
        with pytest.raises(DataError) as caught:
            part.load("no-such-split")
        assert "no-such-split" in str(caught.value)
        assert part.splits()[0] in str(caught.value)
