"""Which formatter reads the rows: the recipe's own, or the one that ``format = "auto"`` finds."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from dpotrain.core.errors import DataError, DpotrainError, RecipeError, short
from dpotrain.core.pair import PreferencePair, UnusableRow

if TYPE_CHECKING:
    from dpotrain.plugin.api import DatasetFormatter, Rows

#: Rows that ``auto`` looks at, spread evenly over the data.
SAMPLE = 200

#: Why a row is dropped that is deeper than Python can go.
NESTED = "the row is nested too deeply"

#: Columns and keys that a message shows.
_SHOWN = 12

#: A formatter is in the running for ``auto`` with at least this share of what the best one recognises: a few
#: odd rows must not decide against the formatter that knows the shape for certain.
_IN_THE_RUNNING = 0.9


@dataclass(frozen=True, slots=True)
class Decision:
    """The formatter, and why."""

    formatter: DatasetFormatter
    text: str
    """One line for the person watching."""
    warning: str = ""


@dataclass(frozen=True, slots=True)
class _Vote:
    """What one formatter said of the sampled rows."""

    formatter: DatasetFormatter
    recognised: int
    certainty: int

    @property
    def rank(self) -> tuple[float, int]:
        """Specificity first, among those that recognise about as much; then the number of rows."""
        return (self.certainty / self.recognised, self.recognised)


def choose_formatter(
    rows: Rows,
    catalogue: Iterable[type[DatasetFormatter]],
    chosen: DatasetFormatter | None,
    columns: Mapping[str, str],
) -> Decision:
    """Return the recipe's formatter, or ask every one in the catalogue over many rows.

    ``columns`` is ``[data.columns]``, which ``rows`` already follow. Raises DataError where no formatter or
    more than one fits, and RecipeError where a mapped name is one that the formatter does not read.
    """
    classes = list(catalogue)
    if chosen is not None:
        _check_mapped(columns, [type(chosen)])
        return Decision(chosen, f"data format: {chosen.name} (set by data.format)")
    _check_mapped(columns, classes)
    decision = _vote(rows, classes)
    _check_mapped(columns, [type(decision.formatter)])
    return decision


def format_row(formatter: DatasetFormatter, row: Mapping[str, Any], number: int) -> PreferencePair:
    """Return the row's pair; what a formatter raises otherwise than UnusableRow gets a note that names the row."""
    try:
        return formatter.format(row)
    except (UnusableRow, DpotrainError):
        raise
    except RecursionError:
        raise UnusableRow(NESTED) from None
    except Exception as error:
        error.add_note(
            f"It was given row {number}. A formatter drops a row that it cannot read by raising UnusableRow."
        )
        raise


def _vote(rows: Rows, classes: Sequence[type[DatasetFormatter]]) -> Decision:
    sample = _spread(len(rows))
    looked_at = [(number, rows[number]) for number in sample]
    asked = [formatter for formatter in map(_constructed, classes) if formatter is not None]
    answers = [[_recognition(each, row, number) for number, row in looked_at] for each in asked]
    votes = [
        _Vote(formatter, recognised=sum(level > 0 for level in levels), certainty=sum(levels))
        for formatter, levels in zip(asked, answers, strict=True)
    ]
    judged = sum(map(any, zip(*answers, strict=True)))
    most = max((vote.recognised for vote in votes), default=0)
    if not most:
        raise DataError(
            f"No formatter recognises the data: {len(sample)} rows were looked at.\n"
            + _help(rows, sample, classes)
        )
    running = [vote for vote in votes if vote.recognised >= _IN_THE_RUNNING * most]
    best = max(vote.rank for vote in running)
    winners = [vote for vote in running if vote.rank == best]
    if len(winners) > 1:
        names = " and ".join(f'"{vote.formatter.name}"' for vote in winners)
        raise DataError(
            f"More than one formatter fits the data equally well: {names}.\n"
            f'Say which one with data.format = "{winners[0].formatter.name}".\n'
            + _help(rows, sample, classes)
        )
    winner = winners[0]
    name = winner.formatter.name
    text = f"data format: {name} (recognised in {winner.recognised} of {judged} rows looked at)"
    warning = ""
    if winner.recognised < judged:
        rest = ", ".join(
            f"{vote.formatter.name} {vote.recognised}"
            for vote in votes
            if vote.recognised and vote is not winner
        )
        warning = (
            f'The data is of more than one shape: "{name}" recognises {winner.recognised} of {judged} rows '
            f"looked at{f' ({rest})' if rest else ''}. Rows that it cannot read are dropped and counted; "
            "set data.format for another choice."
        )
    return Decision(winner.formatter, text, warning)


def _constructed(cls: type[DatasetFormatter]) -> DatasetFormatter | None:
    """Return the formatter with its default options; one that insists on some has no part in ``auto``."""
    try:
        return cls(cls.Options())
    except ValidationError:
        return None


def _recognition(formatter: DatasetFormatter, row: Mapping[str, Any], number: int) -> int:
    try:
        return int(formatter.recognises(row))
    except RecursionError:  # whatever it is, it is too deep to be told
        return 0
    except Exception as error:
        error.add_note(
            f"It was given row {number}. A formatter answers Recognition.NO for a row that it does not know."
        )
        raise


def _spread(length: int) -> list[int]:
    """Return up to :data:`SAMPLE` row numbers, evenly over ``length`` rows, the first included."""
    count = min(length, SAMPLE)
    return [index * length // count for index in range(count)]


def _check_mapped(columns: Mapping[str, str], classes: Sequence[type[DatasetFormatter]]) -> None:
    """Raise a RecipeError for a mapped name that none of the formatters reads."""
    read = list(dict.fromkeys(name for cls in classes for name in cls.columns))
    for canonical, actual in columns.items():
        if canonical in read:
            continue
        near = difflib.get_close_matches(canonical, read, n=1)
        hint = f' Did you mean "{near[0]}"?' if near else ""
        who = f'formatter "{classes[0].name}" does not read' if len(classes) == 1 else "no formatter reads"
        raise RecipeError(
            f'[data.columns] {canonical} = "{actual}": {who} a column "{canonical}".{hint}\n'
            f"Names that can be mapped: {', '.join(read) or 'none'}. "
            "On the left is the name the formatter knows, on the right the data's own column."
        )


def _help(rows: Rows, sample: Sequence[int], classes: Sequence[type[DatasetFormatter]]) -> str:
    """Show a row's columns with types, what each formatter needs, and the remedy."""
    lines = []
    if sample:
        lines.append(f"Columns of row {sample[0]}:")
        row = rows[sample[0]]
        lines += [f"  {_some([name])}: {describe(value)}" for name, value in islice(row.items(), _SHOWN)]
        if len(row) > _SHOWN:
            lines.append(f"  … and {len(row) - _SHOWN} more")
    lines.append("What each formatter reads:")
    lines += [f"  {cls.name}: {_summary(cls)}" for cls in classes]
    lines.append(
        "Name a formatter with data.format, or say which column is which in [data.columns], "
        'as in prompt = "question".'
    )
    return "\n".join(lines)


def _summary(cls: type[DatasetFormatter]) -> str:
    """Return the first line of the formatter's docstring, or else the columns it reads."""
    doc = (cls.__doc__ or "").strip().partition("\n")[0].strip()
    return doc or ", ".join(cls.columns)


def describe(value: Any, depth: int = 0) -> str:
    """Say of what type a value is, as deep as a list of messages goes; never show its text."""
    if value is None:
        return "nothing (None)"
    if isinstance(value, str):
        return "text" if value else "empty text"
    if isinstance(value, Mapping):
        return "object" if depth > 1 else f"object with {_some(value) or 'no keys'}"
    if isinstance(value, Sequence):
        return f"list of {len(value)}" + (f": {describe(value[0], depth + 1)}" if len(value) else "")
    return {"int": "whole number", "float": "number", "bool": "true or false"}.get(
        type(value).__name__, type(value).__name__
    )


def _some(names: Collection[Any]) -> str:
    """Return the first few names on one line, each shortened where it is long."""
    shown = [short(" ".join(str(name).split()), 40) for name in islice(names, _SHOWN)]
    return ", ".join([*shown, "…"] if len(names) > _SHOWN else shown)
