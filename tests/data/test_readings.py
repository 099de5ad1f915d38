"""Rows written down from a known conversation are read as that conversation or refused, never as another."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpotrain.core.errors import DataError
from dpotrain.core.pair import PreferencePair, UnusableRow
from dpotrain.data.formats.choose_formatter import choose_formatter
from dpotrain.data.formats.read_row import read_row
from dpotrain_plugins.formatters import dpotrain_dataset_formatters
from tests.data.plain_readings import WRITERS, Row, as_meant, as_read

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


def check_reading(data: st.DataObject, writer: str) -> None:
    meant, written = WRITERS[writer](data.draw)
    for name in ("auto", written.formatter):
        pairs = read_as(name, written.row)
        assert pairs or not written.clear, (
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
@settings(max_examples=3000, deadline=None, suppress_health_check=QUIET)
@given(data=st.data())
def test_thousands_of_rows_are_read_as_they_were_meant(data, writer):
    check_reading(data, writer)
