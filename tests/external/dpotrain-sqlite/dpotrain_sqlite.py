"""Preference pairs from an SQLite database: a source of its tables, and a formatter of votes on two answers."""

import hashlib
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from dpotrain.data.pair import PreferencePair, UnusableRow
from dpotrain.errors import DataError
from dpotrain.plugin.components import DatasetFormatter, DatasetSource, Recognition, Rows
from pydantic import Field

from dpotrain import hookimpl

dpotrain_interface = 1


class Table(list[dict[str, Any]]):
    """The rows of a table, in memory; the fingerprint is over everything in them."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        super().__init__(rows)
        self.columns = list(rows[0]) if rows else []
        self.fingerprint = hashlib.sha256(repr(rows).encode()).hexdigest()


class Sqlite(DatasetSource):
    """Reads a database; every table is a split."""

    name = "sqlite"

    class Options(DatasetSource.Options):
        file: Path = Field(description="The database; data.train_split names the table.")

    options: Options

    def splits(self) -> list[str]:
        return [row["name"] for row in self._ask("SELECT name FROM sqlite_master WHERE type = 'table'")]

    def load(self, split: str) -> Rows:
        if split not in (tables := self.splits()):
            there = ", ".join(tables) or "none"
            raise DataError(f'{self.options.file} has no table "{split}"; it has {there}.')
        return Table(self._ask('SELECT * FROM "{}"'.format(split.replace('"', '""'))))

    def _ask(self, query: str) -> list[dict[str, Any]]:
        try:
            with closing(sqlite3.connect(f"{self.options.file.resolve().as_uri()}?mode=ro", uri=True)) as db:
                db.row_factory = sqlite3.Row
                return [dict(row) for row in db.execute(query)]
        except sqlite3.Error as error:
            raise DataError(f"data.file: {self.options.file}: {error}") from error


class Votes(DatasetFormatter):
    """question, answer_a and answer_b are texts; vote says which answer is the better one: "a" or "b"."""

    name = "votes"
    columns = ("question", "answer_a", "answer_b", "vote")

    def recognises(self, row: Mapping[str, Any]) -> Recognition:
        return Recognition.CERTAIN if row.keys() >= set(self.columns) else Recognition.NO

    def format(self, row: Mapping[str, Any]) -> PreferencePair:
        question, a, b, vote = (row.get(column, "") for column in self.columns)
        if vote not in ("a", "b") or not all(isinstance(text, str) for text in (question, a, b)):
            raise UnusableRow("vote is neither a nor b, or a text is missing")
        return PreferencePair(question, *((a, b) if vote == "a" else (b, a)))


@hookimpl
def dpotrain_dataset_sources() -> list[type[DatasetSource]]:
    return [Sqlite]


@hookimpl
def dpotrain_dataset_formatters() -> list[type[DatasetFormatter]]:
    return [Votes]
