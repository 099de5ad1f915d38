"""What the built-in formatters share: a row is recognised by reading it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

from dpotrain.plugin.api import (
    DatasetFormatter,
    PreferencePair,
    Recognition,
    UnusableRow,
    is_empty,
    is_message,
    is_messages,
    unwrapped,
)

Row: TypeAlias = Mapping[str, Any]

#: Columns beside prompt and answers that belong to a conversation.
CONTEXT = ("system", "history", "tools")


class OtherShape(UnusableRow):
    """The row is not of the formatter's shape, as opposed to one of its shape that something is wrong with."""


class ShapeFormatter(DatasetFormatter):
    """A formatter that recognises exactly the rows that it reads, and those of its shape that hold a fault."""

    certainty: ClassVar[Recognition] = Recognition.CERTAIN
    """How sure it is of a row of its shape."""

    def recognises(self, row: Row) -> Recognition:
        try:
            self.read(row)
        except OtherShape:
            return Recognition.NO
        except UnusableRow:
            pass
        return self.certainty

    def format(self, row: Row) -> PreferencePair | Sequence[PreferencePair]:
        return self.read(row)

    @abstractmethod
    def read(self, row: Row) -> PreferencePair | Sequence[PreferencePair]:
        """Return the pair or pairs; raise OtherShape for a row of another shape, UnusableRow for a faulty one."""


def column(row: Row, name: str) -> Any:
    """Return a column's value, a conversation in another form as messages, and None where it holds nothing."""
    value = unwrapped(row.get(name), name)
    if is_text(value) and name not in CONTEXT:
        return value if value.strip() else None  # "None" and "[]" are answers
    return None if is_empty(value) else value


def the_column(row: Row, names: Sequence[str]) -> tuple[str, Any]:
    """Return name and value of the first of these columns that holds something, of the first one where none does."""
    for name in names:
        value = column(row, name)
        if value is not None:
            return name, value
    return names[0], None


def answers(row: Row, names: tuple[str, str] = ("chosen", "rejected")) -> tuple[Any, Any]:
    """Return the two answers, each text or messages.

    Raises OtherShape where both are missing or one is something else, and UnusableRow where one is missing.
    """
    values = [column(row, name) for name in names]
    if all(value is None for value in values):
        raise OtherShape("chosen and rejected are missing")
    for name, value in zip(names, values, strict=True):
        if value is not None and not is_text(value) and not holds_messages(value):
            raise OtherShape(f"{name} is neither text nor messages")
    return values[0], values[1]


def both(
    values: tuple[Any, Any], row: Row, names: tuple[str, str] = ("chosen", "rejected")
) -> tuple[Any, Any]:
    """Return two answers; raise UnusableRow for the one that is missing."""
    for name, value in zip(names, values, strict=True):
        if value is None:
            raise nothing_in(row, name)
    return values


def nothing_in(row: Row, name: str) -> UnusableRow:
    """Return why a row is dropped of which a column holds nothing."""
    return UnusableRow(f"{name} is {'missing' if row.get(name) is None else 'empty'}")


def are_texts(values: tuple[Any, Any]) -> bool:
    """Whether the answers are text, where a missing one is judged by the other."""
    return all(value is None or is_text(value) for value in values)


def holds_messages(value: Any) -> bool:
    """Whether a value, as :func:`column` returns it, is one message or a list of them."""
    return is_message(value) or is_messages(value)


def is_text(value: Any) -> bool:
    """Whether the value is a string."""
    return isinstance(value, str)
