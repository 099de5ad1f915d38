import math

import pytest

from dpotrain.core.records import Record
from dpotrain.ui.series import MOST_POINTS, Series
from dpotrain.ui.state import MOST_LINES, Tracker
from tests.ui.records import FIRST, LAST, Clock, metrics, step


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def tracker(clock):
    return Tracker(clock)


def test_a_phase_before_the_first_step_leaves_a_line_and_later_ones_none(tracker, clock):
    with tracker.phase("tokenizing", 20) as advance:
        assert [phase.name for phase in tracker.state.phases] == ["tokenizing"]
        advance(20)
        clock.sleep(2)
    tracker.step(step(1))
    with tracker.phase("evaluating", 20):
        clock.sleep(2)
    assert [line.text for line in tracker.state.lines] == ["tokenizing 20 in 2.0s"]
    assert tracker.state.phases == []


def test_a_phase_that_is_broken_off_is_over(tracker):
    def run() -> None:
        with tracker.phase("tokenizing", 20):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert tracker.state.phases == []


def test_what_was_said_last_is_not_said_again(tracker):
    for text in ("one", "one", "two", "one"):
        tracker.note(text)
    assert [line.text for line in tracker.state.lines] == ["one", "two", "one"]


def test_the_lines_of_a_long_run_take_bounded_memory(tracker):
    for number in range(2 * MOST_LINES):
        tracker.note(f"note {number}")
    assert len(tracker.state.lines) == MOST_LINES
    assert tracker.state.said == 2 * MOST_LINES


def test_a_step_is_estimated_by_its_micro_batches_and_then_by_the_steps_before(tracker, clock):
    tracker.started("recipe.toml", {}, 10)
    tracker.microbatch(1, 0, 4)
    clock.sleep(3)
    assert math.isnan(tracker.state.step_seconds(clock()))
    tracker.microbatch(1, 1, 4)
    assert tracker.state.step_seconds(clock()) == pytest.approx(12.0)
    assert tracker.state.seconds_left(clock()) == pytest.approx(120.0)
    tracker.step(step(1, total=10))
    assert tracker.state.step_seconds(clock()) == pytest.approx(2.0)
    tracker.microbatch(2, 0, 4)
    clock.sleep(1)
    assert tracker.state.seconds_left(clock()) == pytest.approx(9 * 2.0 - 1.0)


def test_a_resumed_run_counts_its_steps_from_where_it_goes_on(tracker, clock):
    tracker.started("recipe.toml", {}, 100)
    tracker.resumed([FIRST, Record("train", 90, metrics()), LAST])
    tracker.microbatch(91, 0, 2)
    clock.sleep(1)
    tracker.microbatch(91, 1, 2)
    assert tracker.state.seconds_left(clock()) == pytest.approx(10 * 2.0)
    assert tracker.state.course["train", "loss"].drawn() == [(90, 0.5312)]
    assert tracker.state.first_evaluation == FIRST.metrics
    assert tracker.state.evaluation == LAST.metrics


def test_a_train_record_brings_the_memory_that_steps_do_not_carry(tracker):
    tracker.step(step(10))
    tracker.logged(Record("train", 10, metrics(peak_memory_mb=9999.0)))
    assert tracker.state.memory_mb == 9999.0


def test_a_course_keeps_its_shape_in_bounded_memory():
    series = Series()
    for number in range(100_000):
        series.add(number, number / 1000)
    assert len(series.points) <= MOST_POINTS
    assert series.last == 99.999
    assert all(y == pytest.approx(x / 1000) for x, y in series.drawn())
    assert series.drawn()[-1][0] > 99_500


def test_numbers_that_are_none_are_left_out_of_a_course():
    series = Series()
    for value in (1.0, math.nan, math.inf, 2.0):
        series.add(1, value)
    assert [value for _, value in series.drawn()] == [1.0, 2.0]
