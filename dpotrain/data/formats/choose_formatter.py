"""Which formatter reads the rows: the recipe's, or the one that ``format = "auto"`` chooses."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pydantic import ValidationError

from dpotrain.core.errors import DataError, RecipeError, did_you_mean, short
from dpotrain.core.pair_columns import PAIR_COLUMNS
from dpotrain.core.template_arguments import COLUMNS as ARGUMENTS
from dpotrain.data.formats.read_row import UnreadColumn, read_row
from dpotrain.plugin.api import DatasetFormatter, Recognition, Rows

#: Rows that ``auto`` samples, evenly over the data.
SAMPLE = 200
_SHOWN = 12  # columns and keys that a message shows
#: The share of the rows that the formatter has to fit: a few odd rows are dropped and reported, more are refused.
_ENOUGH = 0.9


@dataclass(frozen=True, slots=True)
class Decision:
    """The formatter, and why."""

    formatter: DatasetFormatter
    text: str
    """One line for the user."""
    warning: str = ""
    plain_text: bool = False
    """Whether it was chosen by the rows, and makes plain text of most of those sampled."""


@dataclass(frozen=True, slots=True)
class _Opinion:
    """What one formatter makes of one sampled row."""

    level: int
    """How sure it is that the row is of its shape; NO where it would leave out a column of the pair."""
    reads: bool = False
    """Whether it gives a usable pair."""
    plain_text: bool = False
    """Whether that is plain text."""
    unread: bool = False
    """Whether it would leave out a column."""
    fault: str = ""
    """Why it does not."""

    @property
    def known(self) -> bool:
        """Whether the row is of its shape, also where a column would be left out."""
        return self.level > 0 or self.unread


@dataclass(frozen=True, slots=True)
class _Vote:
    """One formatter's opinions on all sampled rows."""

    formatter: DatasetFormatter
    opinions: Sequence[_Opinion]
    columns: int
    """Columns of the sampled rows that hold something and that it reads."""

    def claims(self, best: Sequence[int]) -> list[int]:
        """Return the rows of which no formatter is more certain than this one."""
        return [row for row, one in enumerate(self.opinions) if 0 < one.level == best[row]]

    def fits(self, best: Sequence[int]) -> list[int]:
        """Return these rows, and those that it reads as well and no formatter is certain of."""
        certain = Recognition.CERTAIN
        return [
            row
            for row, one in enumerate(self.opinions)
            if best[row] and (one.level == best[row] or (one.reads and best[row] < certain))
        ]

    def rank(self, best: Sequence[int]) -> tuple[int, int, int, int]:
        """Rows that fit first, then certainty, then how many of their columns it reads, then usable pairs."""
        opinions = [self.opinions[row] for row in self.fits(best)]
        levels, read = sum(one.level for one in opinions), sum(one.reads for one in opinions)
        return len(opinions), levels, self.columns, read


def choose_formatter(
    rows: Rows,
    formatters: Iterable[type[DatasetFormatter]],
    chosen: DatasetFormatter | None,
    columns: Mapping[str, str],
) -> Decision:
    """Return the recipe's formatter, or the one of ``formatters`` that recognises a sample of the rows best.

    ``columns`` is ``[data.columns]``, which is already applied to ``rows``. Raises DataError where no formatter or
    more than one fits, or too few of the rows are of one format, and RecipeError where the formatter does not read a
    mapped name.
    """
    if chosen is not None:
        decision = Decision(chosen, f"data format: {chosen.name} (set by data.format)")
    else:
        classes = list(formatters)
        _check_mapped(columns, classes)
        decision = _vote(rows, classes)
    _check_mapped(columns, [type(decision.formatter)])
    return decision


def _vote(rows: Rows, classes: Sequence[type[DatasetFormatter]]) -> Decision:
    count = min(len(rows), SAMPLE)
    sample = [index * len(rows) // count for index in range(count)]
    looked_at = [(number, rows[number]) for number in sample]
    votes = [vote for each in classes if (vote := _vote_of(each, looked_at)) is not None]
    best = [max((vote.opinions[row].level for vote in votes), default=0) for row in range(len(sample))]
    candidates = [vote for vote in votes if vote.claims(best)]
    faults = {vote.formatter.name: one.fault for vote in votes for one in vote.opinions if one.fault}
    refused = [f"  {name}: {fault}" for name, fault in faults.items()]
    if not candidates:
        found = f"No formatter recognises the data ({len(sample)} rows sampled)."
        raise DataError(
            "\n".join([found, *refused, *_respelled(looked_at, classes), _help(rows, sample, classes)])
        )
    first = max(vote.rank(best) for vote in candidates)
    winners = [vote for vote in candidates if vote.rank(best) == first]
    if len(winners) > 1:
        names = " and ".join(f'"{vote.formatter.name}"' for vote in winners)
        raise DataError(
            f"More than one formatter fits the data equally well: {names}.\n"
            f'Choose one, as in data.format = "{winners[0].formatter.name}".\n' + _help(rows, sample, classes)
        )
    winner, name = winners[0], winners[0].formatter.name
    fitting = len(winner.fits(best))
    # A row that is of a known shape, but for a column that would be left out, is a row of the data too.
    recognised = sum(any(vote.opinions[row].known for vote in votes) for row in range(len(sample)))
    text = f"data format: {name} (recognised in {fitting} of {len(sample)} rows sampled)"
    plain = sum(one.plain_text for one in winner.opinions) * 2 > sum(one.reads for one in winner.opinions)
    if fitting == recognised:
        return Decision(winner.formatter, text, plain_text=plain)
    others = [vote for vote in candidates if vote is not winner]
    counts = ", ".join(f'"{vote.formatter.name}" {len(vote.claims(best))}' for vote in others)
    mixed = (
        f'"{name}" fits {fitting} of {recognised} rows of a known shape{f" ({counts})" if counts else ""}.'
    )
    if fitting >= _ENOUGH * recognised:
        warning = f"Not all rows are of one format: {mixed} Rows that it cannot read are dropped and counted."
        return Decision(winner.formatter, text, warning, plain)
    examples = [(sample[vote.claims(best)[0]], vote.formatter.name) for vote in [winner, *others]]
    shown = [f'  row {number} is "{of}": {describe(rows[number])}' for number, of in examples]
    remedy = (
        f'Set data.format = "{name}" to drop what it does not read, or give each format a file of its own.'
    )
    raise DataError("\n".join([f"No formatter fits the data: {mixed}", *shown, *refused, remedy]))


def _vote_of(cls: type[DatasetFormatter], looked_at: Sequence[tuple[int, Mapping[str, Any]]]) -> _Vote | None:
    """Return a formatter's vote on the sampled rows; None where it has required options, or recognises none."""
    try:
        formatter = cls(cls.Options())
    except ValidationError:
        return None
    levels = [_recognition(formatter, row, number) for number, row in looked_at]
    if not any(levels):
        return None
    opinions = [
        _opinion(formatter, row, number, level)
        for (number, row), level in zip(looked_at, levels, strict=True)
    ]
    columns = {name for _, row in looked_at for name in formatter.columns if row.get(name)}
    return _Vote(formatter, opinions, len(columns))


def _opinion(formatter: DatasetFormatter, row: Mapping[str, Any], number: int, level: int) -> _Opinion:
    try:
        read = read_row(formatter, row, number)
    except UnreadColumn as error:
        return _Opinion(0, unread=level > 0, fault=str(error) if level else "")
    except Exception as error:
        # What is wrong with the row, or with the formatter, is reported when the row is read in earnest.
        return _Opinion(level, fault=str(error) if level else "")
    return _Opinion(level, reads=True, plain_text=not read.pairs[0].conversational)


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
            f"{did_you_mean(canonical, [*read, *PAIR_COLUMNS, ARGUMENTS[0]])}\n"
            f"Names that can be mapped: {', '.join(read) or 'none'}; numbers of a pair: {', '.join(PAIR_COLUMNS)}; "
            f"variables of the chat template: {ARGUMENTS[0]}. "
            "On the left is one of these, on the right the data's column."
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
    example = _example([rows[number] for number in sample])
    return "\n".join(
        [*lines, f"Set data.format to a formatter, or map the data's columns in [data.columns]{example}."]
    )


def _respelled(
    looked_at: Sequence[tuple[int, Mapping[str, Any]]], classes: Sequence[type[DatasetFormatter]]
) -> list[str]:
    """Return the line that reads columns whose names differ from a formatter's in case, spaces or punctuation only."""
    read = {name for cls in classes for name in cls.columns}
    names = dict.fromkeys(name for _, row in looked_at for name in row)
    plain = {name: "_".join(re.findall(r"[^\W_]+", name.lower())) for name in names}
    mapping = {plain[name]: name for name in names if plain[name] in read and plain[name] not in names}
    if not mapping:
        return []
    moved = set(mapping.values())
    mapped = [
        (
            number,
            {key: row.get(name) for key, name in mapping.items()}
            | {k: v for k, v in row.items() if k not in moved},
        )
        for number, row in looked_at
    ]
    if all(_vote_of(cls, mapped) is None for cls in classes):
        return []
    # A TOML string is quoted as a JSON string is.
    pairs = ", ".join(f"{key} = {json.dumps(name, ensure_ascii=False)}" for key, name in mapping.items())
    line = f"The columns are known by names in another spelling. [data] needs this line:\n  columns = {{ {pairs} }}"
    return [line]


#: What formatters call columns that data sets have under another name.
_OTHER_NAMES = {"system_prompt": "system", "system_message": "system", "functions": "tools"}


def _example(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return an example of a mapping: a known column of another name, or the likely prompt."""
    names = {name for row in rows for name, value in row.items() if value}
    for name, formatters_name in _OTHER_NAMES.items():
        if name in names and formatters_name not in names:
            return f', as in {formatters_name} = "{name}"'
    if not {"chosen", "rejected"} & names:
        # Which column is an answer only a person knows.
        columns = list(dict.fromkeys(name for row in rows for name in row))
        return f": which of {_some(columns)} is chosen, which rejected"
    if "prompt" in names:
        return ""
    # The column whose texts differ most between the rows, the answers aside.
    texts: dict[str, set[str]] = {}
    for row in rows:
        for name, value in row.items():
            if isinstance(value, str) and len(value.split()) > 1 and name not in ("chosen", "rejected"):
                texts.setdefault(name, set()).add(value)
    prompt = _some([max(texts, key=lambda name: len(texts[name]))]) if texts else "question"
    return f', as in prompt = "{prompt}"'


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
