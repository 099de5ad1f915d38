"""Learning-rate schedules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpotrain.engine.schedule import learning_rate_factor
from dpotrain.recipe.sections import ScheduleSection


def factors(total, **options):
    return [learning_rate_factor(ScheduleSection(**options), step, total) for step in range(1, total + 1)]


def test_constant_after_warmup():
    assert factors(5, use="constant", warmup_steps=2) == [0.5, 1, 1, 1, 1]


def test_linear_falls_to_zero_after_the_last_step():
    assert factors(4, use="linear") == [1.0, 0.75, 0.5, 0.25]


def test_cosine_is_half_way_in_the_middle():
    got = factors(4, use="cosine")
    assert got == pytest.approx([1.0, 0.8535534, 0.5, 0.1464466])


def test_warmup_fraction_is_rounded_up():
    assert factors(10, use="linear", warmup_fraction=0.11)[:3] == [0.5, 1.0, 1.0]


def test_a_floor():
    got = factors(100, use="cosine", min_lr_fraction=0.1)
    assert got[0] == 1.0
    assert 0.1 < got[-1] < 0.101


@given(
    total=st.integers(1, 50),
    use=st.sampled_from(["constant", "linear", "cosine"]),
    warmup=st.integers(0, 60),
    floor=st.floats(0, 1),
)
def test_every_step_learns_and_none_exceeds_the_peak(total, use, warmup, floor):
    for factor in factors(
        total, use=use, warmup_steps=warmup, min_lr_fraction=0.0 if use == "constant" else floor
    ):
        assert 0 < factor <= 1
