"""Which formatter reads the rows: the recipe's, or the one that ``format = "auto"`` chooses."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pydantic import ValidationError

from dpotrain.core.errors import DataError, DpotrainError, RecipeError, did_you_mean, short
from dpotrain.core.pair import PreferencePair, UnusableRow
from dpotrain.plugin.api import DatasetFormatter, Rows

#: Rows that ``auto`` samples, evenly over the data.
SAMPLE = 200
#: Why a row is dropped that exceeds Python's recursion limit.
NESTED = "the row is nested too deeply"
_SHOWN = 12  # columns and keys that a message shows
#: A formatter is a candidate for ``auto`` if it recognises at least this share of what the best one does: a few odd
#: rows must not rule out the formatter that recognises the shape for certain.
_CANDIDATE_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Decision:
    """The formatter, and why."""

    formatter: DatasetFormatter
    text: str
    """One line for the user."""
    warning: str = ""


@dataclass(frozen=True, slots=True)
class _Vote:
    """How one formatter recognises the sampled rows."""

    formatter: DatasetFormatter
    recognised: int
    certainty: int

    @property
    def rank(self) -> tuple[float, int]:
        """Mean certainty first, then the number of rows."""
        return (self.certainty / self.recognised, self.recognised)


def choose_formatter(
    rows: Rows,
    formatters: Iterable[type[DatasetFormatter]],
    chosen: DatasetFormatter | None,
    columns: Mapping[str, str],
) -> Decision:
    """Return the recipe's formatter, or the one of ``formatters`` that recognises a sample of the rows best.

    ``columns`` is ``[data.columns]``, which is already applied to ``rows``. Raises DataError where no formatter or
    more than one fits, and RecipeError where the formatter does not read a mapped name.
    """
    if chosen is not None:
        decision = Decision(chosen, f"data format: {chosen.name} (set by data.format)")
    else:
        classes = list(formatters)
        _check_mapped(columns, classes)
        decision = _vote(rows, classes)
    _check_mapped(columns, [type(decision.formatter)])
    return decision


def format_row(formatter: DatasetFormatter, row: Mapping[str, Any], number: int) -> PreferencePair:
    """Return the row's pair; an exception of the formatter other than UnusableRow gets a note that names the row."""
    try:
        return formatter.format(row)
    except (UnusableRow, DpotrainError):
        raise
    except RecursionError:
        raise UnusableRow(NESTED) from None
    except Exception as error:
        error.add_note(
            f"It was given row {number}. To drop a row that it cannot read, a formatter raises UnusableRow."
        )
        raise


def _vote(rows: Rows, classes: Sequence[type[DatasetFormatter]]) -> Decision:
    count = min(len(rows), SAMPLE)
    sample = [index * len(rows) // count for index in range(count)]
    looked_at = [(number, rows[number]) for number in sample]
    asked = [formatter for formatter in map(_constructed, classes) if formatter is not None]
    answers = [[_recognition(each, row, number) for number, row in looked_at] for each in asked]
    votes = [
        _Vote(formatter, recognised=sum(level > 0 for level in levels), certainty=sum(levels))
        for formatter, levels in zip(asked, answers, strict=True)
    ]
    recognised = sum(map(any, zip(*answers, strict=True)))
    most = max((vote.recognised for vote in votes), default=0)
    if not most:
        raise DataError(
            f"No formatter recognises the data ({len(sample)} rows sampled).\n" + _help(rows, sample, classes)
        )
    candidates = [vote for vote in votes if vote.recognised >= _CANDIDATE_SHARE * most]
    best = max(vote.rank for vote in candidates)
    winners = [vote for vote in candidates if vote.rank == best]
    if len(winners) > 1:
        names = " and ".join(f'"{vote.formatter.name}"' for vote in winners)
        raise DataError(
            f"More than one formatter fits the data equally well: {names}.\n"
            f'Choose one, as in data.format = "{winners[0].formatter.name}".\n' + _help(rows, sample, classes)
        )
    winner = winners[0]
    name = winner.formatter.name
    text = f"data format: {name} (recognised in {winner.recognised} of {recognised} rows sampled)"
    warning = ""
    if winner.recognised < recognised:
        others = (vote for vote in votes if vote.recognised and vote is not winner)
        rest = ", ".join(f"{vote.formatter.name} {vote.recognised}" for vote in others)
        warning = (
            f'The data has rows of several formats: "{name}" recognises {winner.recognised} of {recognised} rows '
            f"sampled{f' ({rest})' if rest else ''}. Rows that it cannot read are dropped and counted; "
            "set data.format to choose another formatter."
        )
    return Decision(winner.formatter, text, warning)


def _constructed(cls: type[DatasetFormatter]) -> DatasetFormatter | None:
    """Return the formatter with its default options, None where it has required options."""
    try:
        return cls(cls.Options())
    except ValidationError:
        return None


def _recognition(formatter: DatasetFormatter, row: Mapping[str, Any], number: int) -> int:
    try:
        return int(formatter.recognises(row))
    except RecursionError:  # nested too deeply for any formatter
        return 0
    except Exception as error:
        error.add_note(
            f"It was given row {number}. For a row that it does not read, a formatter returns Recognition.NO."
        )
        raise


def _check_mapped(columns: Mapping[str, str], classes: Sequence[type[DatasetFormatter]]) -> None:
    """Raise a RecipeError for a mapped name that none of the formatters reads."""
    read = list(dict.fromkeys(name for cls in classes for name in cls.columns))
    for canonical, actual in columns.items():
        if canonical in read:
            continue
        who = f'formatter "{classes[0].name}" does not read' if len(classes) == 1 else "no formatter reads"
        raise RecipeError(
            f'[data.columns] {canonical} = "{actual}": {who} a column "{canonical}"'
            f"{did_you_mean(canonical, read)}\n"
            f"Names that can be mapped: {', '.join(read) or 'none'}. "
            "On the left is the formatter's name, on the right the data's column."
        )


def _help(rows: Rows, sample: Sequence[int], classes: Sequence[type[DatasetFormatter]]) -> str:
    """Return a row's columns with types, what each formatter reads, and the remedy."""
    lines = []
    if sample:
        lines.append(f"Columns of row {sample[0]}:")
        row = rows[sample[0]]
        lines += [f"  {_some([name])}: {describe(value)}" for name, value in islice(row.items(), _SHOWN)]
        if len(row) > _SHOWN:
            lines.append(f"  … and {len(row) - _SHOWN} more")
    lines.append("What each formatter reads:")
    for cls in classes:
        summary = (cls.__doc__ or "").strip().partition("\n")[0].strip() or ", ".join(cls.columns)
        lines.append(f"  {cls.name}: {summary}")
    remedy = "Set data.format to a formatter, or map the data's columns in [data.columns]"
    return "\n".join([*lines, f'{remedy}, as in prompt = "question".'])


def describe(value: Any, depth: int = 0) -> str:
    """Return the type of a value in words, as deep as a list of messages goes; never its content."""
    if value is None:
        return "nothing (None)"
    if isinstance(value, str):
        return "text" if value else "empty text"
    if isinstance(value, Mapping):
        return "object" if depth > 1 else f"object with {_some(value) or 'no keys'}"
    if isinstance(value, Sequence):
        return f"list of {len(value)}" + (f": {describe(value[0], depth + 1)}" if len(value) else "")
    name = type(value).__name__
    return {"int": "whole number", "float": "number", "bool": "true or false"}.get(name, name)


def _some(names: Collection[Any]) -> str:
    """Return the first few names on one line, each shortened where it is long."""
    shown = [short(" ".join(str(name).split()), 40) for name in islice(names, _SHOWN)]
    return ", ".join([*shown, "…"] if len(names) > _SHOWN else shown)
