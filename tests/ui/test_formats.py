import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpotrain.core import formats

anything = st.floats(width=32)


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (formats.number, 0.693147, "0.6931"),
        (formats.number, -0.0, "0.0000"),
        (formats.number, -4.77e-8, "0.0000"),
        (formats.number, 0.00031, "0.0003"),
        (formats.magnitude, 1.23e-5, "1.23e-05"),
        (formats.magnitude, 0.0, "0.0000"),
        (formats.magnitude, 1.25, "1.2500"),
        (formats.number, 123456.0, "1.23e+05"),
        (formats.number, math.nan, "nan"),
        (formats.number, -math.inf, "-inf"),
        (formats.signed, 0.5, "+0.5000"),
        (formats.signed, -0.5, "-0.5000"),
        (formats.signed, -0.0, "+0.0000"),
        (formats.signed, -4.77e-8, "+0.0000"),
        (formats.signed, math.nan, "nan"),
        (formats.learning_rate, 5e-7, "5.0e-07"),
        (formats.share, 0.525, "52.5 %"),
        (formats.share, math.nan, "nan"),
        (formats.points, 0.15, "+15.0 points"),
        (formats.points, -0.15, "-15.0 points"),
        (formats.rate, 0.03125, "0.0312"),
        (formats.rate, 12.34, "12.3"),
        (formats.rate, 2345.6, "2,346"),
        (formats.duration, 0.44, "0.4s"),
        (formats.duration, 9.99, "10s"),
        (formats.duration, 59.7, "1m00s"),
        (formats.duration, 62, "1m02s"),
        (formats.duration, 3599.6, "1h00m"),
        (formats.duration, 7620, "2h07m"),
        (formats.duration, 86399, "1d00h"),
        (formats.duration, 274000, "3d04h"),
        (formats.duration, math.nan, "?"),
        (formats.megabytes, 512.4, "512 MB"),
        (formats.megabytes, 3277, "3.2 GB"),
        (formats.megabytes, math.inf, "?"),
        (formats.count, 4884480, "4,884,480"),
    ],
)
def test_a_value_is_written_as_people_read_it(write, value, text):
    assert write(value) == text


@given(anything)
@settings(max_examples=200, deadline=None)
def test_no_value_is_too_odd_to_be_written_on_one_short_line(value):
    writers = (
        formats.number, formats.signed, formats.learning_rate, formats.share, formats.rate,
        formats.duration, formats.megabytes,
    )  # fmt: skip
    for write in writers:
        text = write(value)
        assert text
        assert "\n" not in text
    assert len(formats.number(value)) <= 12


@given(st.floats(0, 1e7), st.floats(0, 1e7))
@settings(max_examples=200, deadline=None)
def test_a_longer_time_never_reads_shorter(a, b):
    def read(text: str) -> float:
        units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
        total, digits = 0.0, ""
        for char in text:
            if char in units:
                total, digits = total + float(digits) * units[char], ""
            else:
                digits += char
        return total

    low, high = sorted((a, b))
    assert read(formats.duration(low)) <= read(formats.duration(high))
    assert read(formats.duration(high)) == pytest.approx(high, rel=0.03, abs=0.5)


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_no_control_character_of_the_data_reaches_a_terminal(text):
    shown = formats.printable(text)
    assert not any((ord(char) < 32 and char != "\n") or 127 <= ord(char) < 160 for char in shown)
    shown.encode("utf-8")


def test_an_escape_sequence_is_shown_not_obeyed():
    assert formats.printable("a\x1b[2Jb\tc\r\nd") == "a\ufffd[2Jb c\nd"


@given(st.lists(anything, max_size=60), st.integers(0, 20))
@settings(max_examples=200, deadline=None)
def test_a_sparkline_never_outgrows_its_width(values, width):
    finite = [value for value in values if math.isfinite(value)]
    assert len(formats.sparkline(values, width)) == min(width, len(finite))


def test_a_sparkline_shows_the_course():
    assert formats.sparkline([8, 7, 6, 5, 4, 3, 2, 1], 8) == "█▇▆▅▄▃▂▁"
    assert formats.sparkline([4, 4, 2, 2, 0, 0], 3) == "█▅▁"
    assert formats.sparkline([1, math.nan, 1], 8) == "▄▄"
