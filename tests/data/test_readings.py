"""Rows written down from a known conversation are read as that conversation or refused, never as another."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpotrain.core.errors import DataError
from dpotrain.core.pair import PreferencePair, UnusableRow
from dpotrain.data.formats.choose_formatter import choose_formatter
from dpotrain.data.formats.read_row import read_row
from dpotrain_plugins.formatters import dpotrain_dataset_formatters
from tests.data.plain_formats import WRITERS
from tests.data.plain_readings import TELLING, Row, as_meant, as_read

CATALOGUE = dpotrain_dataset_formatters()
FORMATTERS = {cls.name: cls(cls.Options()) for cls in CATALOGUE}
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]


class OneRow(list[Row]):
    fingerprint = ""

    @property
    def columns(self) -> list[str]:
        return list(self[0])


def read_as(name: str, row: Row) -> tuple[PreferencePair, ...]:
    """Return the pairs that the formatter reads, or the one that ``auto`` chooses; none where the row is refused."""
    try:
        formatter = (
            choose_formatter(OneRow([row]), CATALOGUE, None, {}).formatter
            if name == "auto"
            else FORMATTERS[name]
        )
        return tuple(read_row(formatter, row, 0).pairs)
    except (DataError, UnusableRow):
        return ()


def looks_like_messages(row: Row) -> bool:
    """Whether a text is refused because it begins as an object and names a speaker: a question before an answer."""
    texts = [value for value in row.values() if isinstance(value, str)]
    begun = [text for text in texts if text.lstrip('\ufeff"[( \t\r\n\u00a0\u2028').startswith("{")]
    return any('"role"' in text or "'from'" in text for text in begun)


def check_reading(data: st.DataObject, writer: str) -> None:
    meant, written = WRITERS[writer](data.draw)
    for name in ("auto", written.formatter):
        pairs = read_as(name, written.row)
        assert pairs or not written.clear or looks_like_messages(written.row), (
            f"{name} refuses a row that can be read in one way only: {written.row}"
        )
        for pair in pairs:
            assert as_read(pair, written) == as_meant(meant, written), f"{name} reads {written.row}"


@pytest.mark.parametrize("writer", WRITERS)
@settings(max_examples=40, deadline=None, suppress_health_check=QUIET)
@given(data=st.data())
def test_a_row_is_read_as_it_was_meant(data, writer):
    check_reading(data, writer)


@pytest.mark.soak
@pytest.mark.parametrize("writer", WRITERS)
@settings(max_examples=500, deadline=None, suppress_health_check=QUIET)
@given(data=st.data())
def test_hundreds_of_rows_are_read_as_they_were_meant(data, writer):
    check_reading(data, writer)


# Rows that somebody has changed

#: Columns of which no text may be lost.
KNOWN = (
    *("prompt", "question", "query", "instruction", "input", "messages", "conversations"),
    *("system", "history", "tools", "chosen", "rejected"),
)
MARKER = re.compile(r"mark\d+end")


def changed(draw: st.DrawFn, row: Row) -> Row:
    """Return the row with a few columns dropped, swapped, renamed, wrapped, added or written as JSON text."""
    row = dict(row)
    for count in range(draw(st.integers(1, 2))):
        name, other = draw(st.sampled_from(sorted(row))), draw(st.sampled_from(KNOWN))
        way = draw(st.sampled_from(["drop", "swap", "rename", "add", "add turns", "wrap", "json", "nothing"]))
        if way == "drop" and len(row) > 1:
            del row[name]
        elif way == "swap" and other in row:
            row[name], row[other] = row[other], row[name]
        elif way == "rename" and other not in row:
            row[other] = row.pop(name)
        elif way == "add" and other not in row:
            row[other] = f"mark{900 + count}end"
        elif way == "add turns" and other not in row:
            turn = {
                "role": draw(st.sampled_from(["user", "assistant", "system"])),
                "content": f"mark{900 + count}end",
            }
            row[other] = [turn]
        elif way == "wrap":
            row[name] = [row[name]] if draw(st.booleans()) else {"messages": row[name]}
        elif way == "json" and not isinstance(row[name], str):
            row[name] = json.dumps(row[name])
        elif way == "nothing":
            row[name] = None
    return row


def markers(value: Any) -> list[str]:
    """Return the marker words of every text in a value, in order and with repeats."""
    if isinstance(value, str):
        return MARKER.findall(value)
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, Sequence) else ()
    return [marker for one in inner for marker in markers(one)]


def check_nothing_is_lost(data: st.DataObject, writer: str) -> None:
    _, written = WRITERS[writer](data.draw)
    row = changed(data.draw, written.row)
    given = {name: set(markers(row[name])) for name in KNOWN if name in row}
    for name in ("auto", *FORMATTERS):
        pairs = read_as(name, row)
        for pair in pairs:
            prompt, chosen, rejected = map(markers, (pair.prompt, pair.chosen, pair.rejected))
            tools = markers(pair.tools)
            where = f"format {name}: {row} is read as {pair}"
            for column, found in given.items():
                lost = found - {*prompt, *chosen, *rejected, *tools}
                assert not lost, f"{lost} of {column} is lost by {where}"
            # Texts that a recipe takes for plain ones are as they stand, and so is the question of answers that were
            # swapped with it.
            for answer in (chosen, rejected) if name != "standard" and TELLING not in str(row) else ():
                said = [*prompt, *answer]
                twice = {marker for marker in said if said.count(marker) > 1} - given.get("system", set())
                assert not twice, f"{twice} stands twice: {where}"


@pytest.mark.parametrize("writer", sorted({*WRITERS} - {"ranked"}))  # of several answers, two make a pair
@settings(max_examples=30, deadline=None, suppress_health_check=QUIET)
@given(data=st.data())
def test_a_changed_row_loses_and_doubles_nothing(data, writer):
    check_nothing_is_lost(data, writer)


@pytest.mark.soak
@pytest.mark.parametrize("writer", sorted({*WRITERS} - {"ranked"}))
@settings(max_examples=500, deadline=None, suppress_health_check=QUIET)
@given(data=st.data())
def test_hundreds_of_changed_rows_lose_and_double_nothing(data, writer):
    check_nothing_is_lost(data, writer)
