import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from dpotrain.ui.chart import Curve, chart, plain, ticks

RISING = [(step, step / 100) for step in range(1, 101)]


def drawn(*curves: Curve, width: int = 40, height: int = 8, title: str = "loss") -> list[str]:
    return [line.plain.rstrip() for line in chart(title, curves, width, height)]


def test_a_curve_has_a_scale_on_both_axes_and_its_newest_value():
    assert drawn(Curve("train", RISING, "green", "1.0000")) == [
        "loss  ─ train 1.0000",
        "1.0 ┤                               ⣀⣠⠤⠤",
        "    │                        ⣀⣠⠤⠴⠒⠋⠉⠁",
        "    │                 ⣀⣠⠤⠴⠒⠋⠉⠁",
        "0.5 ┤          ⣀⣀⡤⠴⠒⠚⠉⠁",
        "    │   ⣀⣀⡤⠴⠒⠚⠉⠁",
        "    │⠖⠚⠉⠁",
        "    └ 1 ──────────── 50 ────── 100 step",
    ]


def test_marks_stand_on_the_line_of_another_curve():
    lines = drawn(Curve("train", RISING, "green"), Curve("eval", RISING[::33], "magenta", marks=True))
    assert lines[0] == "loss  ─ train  ◆ eval"
    assert sum(line.count("◆") for line in lines[1:]) == 4


def test_a_legend_without_room_keeps_the_values():
    curves = [Curve("train", RISING, "green", "0.1234"), Curve("eval", RISING, "red", "0.5678", marks=True)]
    assert drawn(*curves, width=28)[0] == "loss  ─ 0.1234  ◆ 0.5678"
    assert drawn(Curve("chosen", RISING, "", "0.123456", short="chosen"), width=22)[0] == "loss  ─ chosen"


@pytest.mark.parametrize("value", [0.0, 0.6931, -3.0, 5e-7, 12345.0])
def test_one_value_stands_in_the_middle(value):
    lines = drawn(Curve("train", [(1, value), (2, value)], "green"))
    assert any(character in lines[3] + lines[4] for character in "⠉⠒⠤⣀")
    assert len(lines) == 8


def test_nothing_to_draw_is_said():
    assert drawn(Curve("train", [(1, math.nan)], "green"), Curve("eval", [], "red"))[1] == "  no values yet"


anything = st.one_of(st.floats(-1e9, 1e9), st.just(math.nan), st.just(math.inf))


@given(
    st.lists(st.tuples(st.integers(0, 10**6), anything), max_size=30), st.integers(24, 90), st.integers(5, 20)
)
@settings(max_examples=200, deadline=None)
def test_a_chart_has_its_size_whatever_the_points(points, width, height):
    lines = chart(
        "loss", [Curve("train", sorted(points, key=lambda point: point[0]), "green")], width, height
    )
    assert len(lines) == height
    assert all(cell_len(line.plain) <= width for line in lines)


@given(st.floats(-1e6, 1e6), st.floats(1e-9, 1e6), st.integers(2, 6))
@settings(max_examples=300, deadline=None)
def test_a_scale_has_a_few_labels_that_differ(low, range_, most):
    high = low + range_
    assume(high - low > 1e-6 * max(abs(low), abs(high)))
    numbers, each = ticks(low, high, most)
    assert 2 <= len(numbers) <= 4 * most + 1
    assert all(low - each / 100 <= number <= high + each / 100 for number in numbers)
    labels = [plain(number, each) for number in numbers]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize(
    ("value", "each", "text"),
    [
        (0.5, 0.25, "0.50"),
        (2.0, 1.0, "2"),
        (-0.0, 0.5, "0.0"),
        (5e-7, 2.5e-7, "5.0e-07"),
        (0.0, 2.5e-7, "0"),
        (0.5312, 1e-4, "0.5312"),
        (2e6, 1e6, "2.0e+06"),
    ],
)
def test_a_label_has_the_decimals_that_its_neighbours_need(value, each, text):
    assert plain(value, each) == text
