"""A row to its preference pairs; a column that belongs to a pair is read, or the row is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dpotrain.core.errors import DpotrainError
from dpotrain.core.messages.message import normalised, read_messages
from dpotrain.core.messages.values import MEDIA, REASONING, is_empty
from dpotrain.core.pair import Message, PreferencePair, Text, UnusableRow
from dpotrain.core.template_arguments import read_arguments
from dpotrain.data.formats.check_pair import check_pair
from dpotrain.plugin.api import DatasetFormatter
from dpotrain.plugin.api.returns import WrongReturnError

#: Why a row is dropped that exceeds Python's recursion limit.
NESTED = "the row is nested too deeply"

#: Columns that belong to a pair wherever they stand: what they hold is part of what the model is asked.
PAIR_COLUMNS = frozenset(
    (
        *("prompt", "question", "query", "instruction", "input", "messages", "conversations", "conversation"),
        *("system", "system_prompt", "system_message", "history", "tools", "functions", "chosen", "rejected"),
    )
)


class UnreadColumn(UnusableRow):
    """The row holds something in a column that belongs to a pair and that the formatter does not read."""


@dataclass(frozen=True, slots=True)
class ReadRow:
    """What one row gave."""

    pairs: tuple[PreferencePair, ...]
    """The usable pairs."""
    refused: tuple[str, ...] = ()
    """Why each of the others is not usable."""
    unused: tuple[str, ...] = ()
    """Other columns with text that the formatter did not read."""


class WatchedRow(dict[str, Any]):
    """A row that notes which columns are read."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        super().__init__(row)
        self.seen: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.seen.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:  # noqa: D102
        self.seen.add(key)
        return super().get(key, default)

    # Whoever goes through the row reads it all.
    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def keys(self) -> Any:  # noqa: D102
        self.seen.update(super().keys())
        return super().keys()

    def items(self) -> Any:  # noqa: D102
        self.seen.update(super().keys())
        return super().items()

    def values(self) -> Any:  # noqa: D102
        self.seen.update(super().keys())
        return super().values()


def read_row(formatter: DatasetFormatter, row: Mapping[str, Any], number: int) -> ReadRow:
    """Return a row's pairs, normalised and checked, with the row's variables for the chat template.

    Raises UnusableRow where the row gives no pair, or holds text in a column that belongs to a pair and is not read. An
    exception of the formatter of another kind gets a note that names the row.
    """
    watched = WatchedRow(row)
    try:
        found = formatter.format(watched)
    except WrongReturnError as error:
        error.add_note(f"It was given row {number}.")
        raise
    except (UnusableRow, DpotrainError):
        raise
    except RecursionError:
        raise UnusableRow(NESTED) from None
    except Exception as error:
        error.add_note(
            f"It was given row {number}. To drop a row that it cannot read, a formatter raises UnusableRow."
        )
        raise
    pairs, refused = [], []
    arguments = read_arguments(watched)
    for pair in [found] if isinstance(found, PreferencePair) else found:
        try:
            pair = _normalised(pair, arguments)
            check_pair(pair)
        except UnusableRow as error:
            refused.append(str(error))
        else:
            pairs.append(pair)
    if not pairs:
        raise UnusableRow(refused[0] if refused else "the row gives no pair")
    unread = [name for name in row if name not in watched.seen and not is_empty(row[name])]
    for name in unread:
        if name.strip().lower() in MEDIA and formatter.columns:
            raise UnreadColumn(
                f'column "{name}" is not text, and no format reads it (data.ignore_columns = ["{name}"] leaves it out)'
            )
    unused = [name for name in unread if _has_text(row[name]) and not _is_repeated(name, row[name], pairs)]
    for name in unused:
        # A formatter that declares no columns may have its own way to the row.
        if name.strip().lower() in PAIR_COLUMNS and formatter.columns:
            raise UnreadColumn(
                f'column "{name}" is not read by format "{formatter.name}": map it in [data.columns], or leave it out '
                f'with data.ignore_columns = ["{name}"]'
            )
    return ReadRow(tuple(pairs), tuple(refused), tuple(unused))


def _normalised(pair: PreferencePair, arguments: Mapping[str, Any]) -> PreferencePair:
    """Return the pair with its messages as chat templates take them, whatever the formatter made of them."""
    return replace(
        pair,
        prompt=_normalised_part(pair.prompt, "prompt"),
        chosen=_normalised_part(pair.chosen, "chosen"),
        rejected=_normalised_part(pair.rejected, "rejected"),
        template_arguments={**arguments, **pair.template_arguments},
    )


def _normalised_part(part: Text, name: str) -> Text:
    if not isinstance(part, Sequence) or isinstance(part, str):
        return part  # what is neither text nor messages is refused by check_pair
    turns: list[Message] = [normalised(turn, name) if isinstance(turn, Mapping) else turn for turn in part]
    return turns


def _has_text(value: Any) -> bool:
    return next(_texts(value), None) is not None


def _is_repeated(name: str, value: Any, pairs: Sequence[PreferencePair]) -> bool:
    """Whether every text in a column stands in the pairs too, so that nothing is lost.

    A conversation, or a column of unknown meaning, may repeat prompt and answers. What any other column asks stands in
    the prompt; that an answer says it too is chance.
    """
    whole = name.strip().lower() not in PAIR_COLUMNS or name.strip().lower() in (
        "messages",
        "conversations",
        "conversation",
    )
    known = "\n".join(
        " ".join(text.split())
        for pair in pairs
        for part in (pair.prompt, list(pair.tools), *((pair.chosen, pair.rejected) if whole else ()))
        for text in _texts(part)
    )
    return all(_stands_in(" ".join(text.split()), known) for text in _texts(_as_messages(value)))


def _as_messages(value: Any) -> Any:
    """Return what the turns of a conversation say, as the pairs have it; any other value as it is."""
    try:
        messages = read_messages(value, "")
    except UnusableRow:
        return value
    return [{key: one for key, one in message.items() if key in _SAID} for message in messages]


def _stands_in(text: str, known: str) -> bool:
    """Whether ``known`` has these words, and not as part of longer ones."""
    at = known.find(text)
    while at >= 0:
        # A pattern of the text itself would take a millisecond to compile.
        if not _IS_IN_WORD.match(known[at - 1 : at] if at else "") and not _IS_IN_WORD.match(
            known, at + len(text)
        ):
            return True
        at = known.find(text, at + 1)
    return False


_IS_IN_WORD = re.compile(r"\w")

#: Keys of a message that say something, of those in the form that chat templates take.
_SAID = ("content", "tool_calls", *REASONING)
#: Keys of a message or a call whose texts say who speaks, not what is said.
_LABELS = ("role", "from", "type", "id")


def _texts(value: Any) -> Iterator[str]:
    """Yield every text in a value that holds a letter or digit, at any depth."""
    if isinstance(value, str):
        if any(map(str.isalnum, value)):
            yield value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            if key not in _LABELS:
                yield from _texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)
