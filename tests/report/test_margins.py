"""Which pairs stay wrong, which moved, and what two runs do with the same pairs."""

import json
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpotrain.core.statistics import sign_test
from dpotrain.report.margins import HeldOutPair, PairMargins, movement, paired, read_margins
from dpotrain.report.run_files import RunFiles


def pairs(*rows: int) -> tuple[HeldOutPair, ...]:
    return tuple(HeldOutPair(row, f"prompt {row}", "chosen", "rejected") for row in rows)


def test_pairs_are_told_by_where_they_begin_and_end():
    margins = {
        0: (0.0, 0.0, 0.0, 0.0),
        10: (-1.0, -1.0, 1.0, 1.0),
        20: (-1.0, 1.0, 1.0, -1.0),
        30: (-2.0, 1.0, 1.0, 0.0),
    }
    moved = movement(PairMargins(pairs(1, 2, 3, 4), margins))
    assert moved is not None
    assert (moved.first_step, moved.last_step, moved.count) == (10, 30, 4), "step 0 tells no pair apart"

    def rows(courses):
        return [course.pair.row for course in courses]

    assert rows(moved.always_wrong) == [1]
    assert rows(moved.became_right) == [2]
    assert rows(moved.became_wrong) == [4], "a tie is not right"
    assert rows(moved.unsteady) == []
    assert moved.accuracy == (2 + 0.5) / 4, "a tie counts half"


def test_there_and_back_is_unsteady():
    moved = movement(PairMargins(pairs(1), {1: (1.0,), 2: (-1.0,), 3: (1.0,)}))
    assert moved is not None
    assert [course.changes for course in moved.unsteady] == [2]
    assert moved.became_right == moved.became_wrong == moved.always_wrong == ()


def test_before_training_margins_are_rounding_and_say_nothing():
    assert movement(PairMargins(pairs(1, 2), {0: (4.77e-8, -4.77e-8)})) is None
    assert movement(PairMargins()) is None


def test_a_reference_of_its_own_makes_step_0_count():
    moved = movement(PairMargins(pairs(1), {0: (-0.5,), 10: (0.5,)}))
    assert moved is not None
    assert moved.first_step == 0


def write(path, lines):
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))


def test_a_damaged_line_does_not_shift_the_others(tmp_path):
    texts = {"prompt": "p", "chosen": "c", "rejected": "r"}
    write(tmp_path / "pairs.jsonl", [{"row": row, **texts} for row in (5, 6)] + ["{", {"row": 8, **texts}])
    scores = [{"row": row, "margin": row / 10} for row in (5, 6, 7, 8)]
    write(tmp_path / "step-00000010.jsonl", scores)
    write(tmp_path / "step-00000020.jsonl", [scores[0], "garbage", *scores[2:]])
    write(tmp_path / "step-00000030.jsonl", scores[:2])
    write(tmp_path / "step-00000040.jsonl", [{"row": 99, "margin": 1.0}, *scores[1:]])
    write(tmp_path / "step-10.jsonl", scores)
    files = RunFiles()
    found = read_margins(tmp_path, files)
    assert [pair.row for pair in found.pairs] == [5, 6, 8]
    assert found.margins[10] == (0.5, 0.6, 0.8)
    assert [math.isnan(margin) for margin in found.margins[20]] == [False, True, False]
    assert [math.isnan(margin) for margin in found.margins[30]] == [False, False, True]
    assert [math.isnan(margin) for margin in found.margins[40]] == [True, False, False], "of another row"
    assert files.problems == [
        "pairs.jsonl: damaged line skipped: 3",
        "step-00000020.jsonl: damaged line skipped: 2",
    ]


def test_two_runs_are_compared_on_the_pairs_that_both_scored():
    first = PairMargins(pairs(1, 2, 3, 4), {10: (1.0, 1.0, -1.0, -1.0)})
    second = PairMargins(pairs(2, 3, 4, 5), {30: (-1.0, 1.0, -1.0, 1.0)})
    found = paired(first, second)
    assert found is not None
    assert (found.both_right, found.only_first, found.only_second, found.both_wrong) == (0, 1, 1, 1)
    assert (found.count, found.same_set, found.p_value) == (3, False, 1.0)
    assert paired(first, PairMargins(pairs(9), {10: (1.0,)})) is None


@pytest.mark.parametrize(
    ("one", "other", "p_value"),
    [
        (0, 0, 1.0),
        (3, 3, 1.0),
        (0, 5, 0.0625),
        (1, 7, 0.0703125),
        (2, 12, 0.012939453125),
    ],
)
def test_the_sign_test_has_known_values(one, other, p_value):
    assert sign_test(one, other) == pytest.approx(p_value, rel=1e-8)
    assert sign_test(other, one) == sign_test(one, other)


@given(st.integers(0, 300), st.integers(0, 300))
def test_the_sign_test_is_the_sum_of_both_tails(one, other):
    tail = sum(Fraction(math.comb(one + other, k), 2 ** (one + other)) for k in range(min(one, other) + 1))
    assert sign_test(one, other) == pytest.approx(float(min(Fraction(1), 2 * tail)))


def test_the_sign_test_of_many_pairs_does_not_overflow():
    assert 0 <= sign_test(4000, 6000) < 1e-80
