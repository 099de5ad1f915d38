"""Learning-rate schedules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dpotrain_plugins.schedules import Constant, Cosine, Linear

SHAPES = [Constant, Linear, Cosine]


def factors(shape, total, **options):
    schedule = shape(shape.Options(**options))
    return [schedule.factor(step, total) for step in range(1, total + 1)]


def test_constant_after_warmup():
    assert factors(Constant, 5, warmup_steps=2) == [0.5, 1, 1, 1, 1]


def test_linear_falls_to_zero_after_the_last_step():
    assert factors(Linear, 4) == [1.0, 0.75, 0.5, 0.25]


def test_cosine_is_half_way_in_the_middle():
    assert factors(Cosine, 4) == pytest.approx([1.0, 0.8535534, 0.5, 0.1464466])


def test_warmup_fraction_is_rounded_up():
    assert factors(Linear, 10, warmup_fraction=0.11)[:3] == [0.5, 1.0, 1.0]
    assert factors(Linear, 100, warmup_fraction=0.07)[6:8] == [1.0, 1.0]


def test_a_floor():
    got = factors(Cosine, 100, min_lr_fraction=0.1)
    assert got[0] == 1.0
    assert 0.1 < got[-1] < 0.101


@pytest.mark.parametrize("shape", SHAPES)
def test_two_warmups_are_refused(shape):
    with pytest.raises(ValidationError, match="warmup_steps and warmup_fraction exclude each other"):
        shape.Options(warmup_steps=3, warmup_fraction=0.1)


@given(
    total=st.integers(1, 50), shape=st.sampled_from(SHAPES), warmup=st.integers(0, 60), floor=st.floats(0, 1)
)
def test_every_step_learns_and_none_exceeds_the_peak(total, shape, warmup, floor):
    more = {} if shape is Constant else {"min_lr_fraction": floor}
    for factor in factors(shape, total, warmup_steps=warmup, **more):
        assert 0 < factor <= 1
