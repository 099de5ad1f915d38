import math

import pytest

from dpotrain.core.pace import RECENT_STEPS, Pace
from dpotrain.core.records import StepRecord


def _step(
    number: int, *, loss: float = 1.0, pairs: int = 8, tokens: int = 100, seconds: float = 2.0
) -> StepRecord:
    return StepRecord(number, 100, number / 100, {"loss": loss}, pairs, tokens, seconds)


def test_before_the_first_step_nothing_is_claimed():
    pace = Pace()
    assert math.isnan(pace.seconds_left())
    assert pace.pairs_per_second is None
    assert pace.mean("loss") is None


def test_time_left_is_the_mean_step_times_the_steps_to_go_also_after_a_resume():
    pace = Pace()
    pace.add(_step(91, seconds=1.0))
    pace.add(_step(92, seconds=3.0))
    assert pace.seconds_left() == pytest.approx(8 * 2.0)


def test_speed_and_means_are_over_pairs_of_the_recent_steps():
    pace = Pace()
    for number in range(1, 50):
        pace.add(_step(number, loss=99.0, pairs=1000))
    for number in range(50, 50 + RECENT_STEPS - 1):
        pace.add(_step(number, loss=1.0, pairs=8, tokens=100, seconds=2.0))
    pace.add(_step(60, loss=5.0, pairs=24, tokens=300, seconds=2.0))
    pairs = 8 * (RECENT_STEPS - 1) + 24
    assert pace.pairs_per_second == pytest.approx(pairs / (2.0 * RECENT_STEPS))
    assert pace.tokens_per_second == pytest.approx((100 * (RECENT_STEPS - 1) + 300) / (2.0 * RECENT_STEPS))
    assert pace.mean("loss") == pytest.approx((pairs - 24 + 5.0 * 24) / pairs)


def test_steps_that_took_no_time_are_no_division_by_zero():
    pace = Pace()
    pace.add(_step(1, seconds=0.0))
    assert pace.tokens_per_second is None


def test_of_the_first_step_what_is_done_of_it_says_how_long_all_take():
    pace = Pace()
    pace.step, pace.total_steps = 90, 100
    assert math.isnan(pace.seconds_left())
    assert pace.seconds_left(estimate=3.0) == pytest.approx(10 * 3.0)


@pytest.mark.parametrize(
    ("evaluate_every", "after", "evaluations"),
    [(25, 30, 3), (25, 50, 2), (None, 30, 1), (25, 99, 1), (7, 98, 1)],
)
def test_evaluations_to_come_take_as_long_as_those_before(evaluate_every, after, evaluations):
    """The one after the last step included. The one of step ``after``, where it is due, is done."""
    pace = Pace(evaluate_every)
    pace.pause(300.0)  # loading
    pace.pause(7.0)
    pace.evaluated()
    pace.pause(3.0)  # sampling
    for number in range(1, after + 1):
        pace.add(_step(number, seconds=1.0))
    pace.pause(10.0)
    pace.evaluated()
    assert pace.seconds_left() == pytest.approx((100 - after) + evaluations * 10.0)


def test_after_the_last_step_its_evaluation_is_still_to_come():
    pace = Pace()
    pace.pause(10.0)
    pace.evaluated()
    pace.add(_step(100))
    assert pace.seconds_left() == pytest.approx(10.0)
    pace.evaluated()
    assert pace.seconds_left() == 0.0


def test_other_phases_between_steps_are_no_evaluations():
    pace = Pace()
    pace.pause(10.0)
    pace.add(_step(99, seconds=1.0))
    assert pace.seconds_left() == pytest.approx(1.0)
