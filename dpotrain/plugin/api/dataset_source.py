"""Dataset sources: where rows come from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from dpotrain.plugin.api.component import Component, hookspec
from dpotrain.plugin.api.returns import is_text, is_texts, returns

#: Keys of ``[data]`` that are the core's own, not the source's.
CORE_KEYS = frozenset(
    {
        *("sources", "format", "columns", "ignore_columns", "train_split", "eval_split", "eval_fraction"),
        *("limit", "shuffle", "max_length", "max_prompt_length", "truncation", "template_arguments", "clock"),
    }
)


class Rows(Protocol):
    """Rows of a data set: a length, random access, and a fingerprint of the content.

    The fingerprint changes whenever a row does: tokenized rows are found again by it.
    """

    @property
    def fingerprint(self) -> str: ...  # noqa: D102
    @property
    def columns(self) -> list[str]: ...  # noqa: D102
    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Mapping[str, Any]: ...


def _are_rows(value: Any) -> bool:
    has_rows = hasattr(value, "__len__") and hasattr(value, "__getitem__")
    columns = getattr(value, "columns", None)
    if not has_rows or isinstance(columns, str) or not isinstance(columns, Iterable):
        return False
    return is_texts(list(columns)) and is_text(getattr(value, "fingerprint", None))


class DatasetSource(Component):
    """Brings rows; selected by ``[data]``, whose remaining keys are its options."""

    kind = "dataset source"

    @abstractmethod
    @returns("a list of names", is_texts)
    def splits(self) -> list[str]:
        """Return the names of the splits there are, for messages and for ``data.eval_split``."""

    @abstractmethod
    @returns(
        "rows, which have a length, indices, columns (a list of names) and a fingerprint (a text)", _are_rows
    )
    def load(self, split: str) -> Rows:
        """Return the rows of one split; raise a DataError that says what was looked for and what is there."""


@hookspec
def dpotrain_dataset_sources() -> Iterable[type[DatasetSource]]:  # type: ignore[empty-body]
    """Offer dataset sources, which bring rows.

    Called: while the recipe is read, and by ``dpotrain plugins`` and ``dpotrain schema``.

    Rank: every process.

    Must not import: datasets, pyarrow or a database's client at the top of its module.

    Result: classes. ``[data] use`` picks one by ``name``; those keys of ``[data]`` that are not the core's
    are its options, so an option must not be called like one of the core's keys.

    Example:
        import hashlib
        import sqlite3

        from pydantic import Field

        from dpotrain import hookimpl
        from dpotrain.plugin.api import DataError, DatasetSource


        class TableRows(list):
            columns = ["prompt", "chosen", "rejected"]
            fingerprint = ""


        class SqliteSource(DatasetSource):
            name = "sqlite"

            class Options(DatasetSource.Options):
                database: str = Field(description="The file; every table of it is a split.")

            def splits(self):
                with sqlite3.connect(self.options.database) as connection:
                    return [name for (name,) in connection.execute("SELECT name FROM sqlite_master")]

            def load(self, split):
                if split not in self.splits():
                    raise DataError(f"{self.options.database} has no table {split}: {self.splits()}")
                with sqlite3.connect(self.options.database) as connection:
                    found = connection.execute(f'SELECT prompt, chosen, rejected FROM "{split}"')
                    rows = TableRows(dict(zip(TableRows.columns, row, strict=True)) for row in found)
                rows.fingerprint = hashlib.sha256(repr(list(rows)).encode()).hexdigest()
                return rows


        @hookimpl
        def dpotrain_dataset_sources():
            return [SqliteSource]
    """
