"""Learning-rate schedules."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dpotrain_plugins.schedules import Constant, Cosine, InverseSqrt, Linear, WarmupStableDecay

SHAPES = [Constant, Linear, Cosine, WarmupStableDecay, InverseSqrt]


def factors(kind, total, /, **options):
    schedule = kind(kind.Options(**options))
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


def test_wsd_stays_at_the_peak_until_it_falls():
    assert factors(WarmupStableDecay, 8, warmup_steps=2, decay_steps=4) == [0.5, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    assert factors(WarmupStableDecay, 8, decay_fraction=0.5, min_lr_fraction=0.5)[4:] == [
        1,
        0.875,
        0.75,
        0.625,
    ]
    assert factors(WarmupStableDecay, 4, decay_steps=4, shape="1-sqrt") == pytest.approx(
        [1, 0.5, 1 - 0.5**0.5, 1 - 0.75**0.5]
    )
    assert factors(WarmupStableDecay, 20)[17:] == [1, 1, 0.5]  # a tenth
    assert factors(WarmupStableDecay, 10, decay_fraction=0.11)[7:] == [1, 1, 0.5]  # rounded up


def test_wsd_falls_in_what_is_left_after_warmup_where_its_steps_are_more():
    assert factors(WarmupStableDecay, 5, warmup_steps=3, decay_steps=100)[2:] == [1, 1, 0.5]
    assert factors(WarmupStableDecay, 3, warmup_steps=9, decay_steps=1) == pytest.approx([1 / 3, 2 / 3, 1])


def test_wsd_with_all_steps_falling_is_linear_and_cosine():
    assert factors(WarmupStableDecay, 9, decay_fraction=1) == factors(Linear, 9)
    assert factors(WarmupStableDecay, 9, decay_fraction=1, shape="cosine") == factors(Cosine, 9)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"decay_steps": 3, "decay_fraction": 0.1},
            "decay_steps and decay_fraction exclude each other; keep one",
        ),
        (
            {"warmup_fraction": 0.5, "decay_fraction": 0.6},
            "warmup_fraction and decay_fraction are more than 1 together",
        ),
    ],
)
def test_what_wsd_cannot_do_is_refused(options, text):
    with pytest.raises(ValidationError, match=text):
        WarmupStableDecay.Options(**options)


def test_inverse_sqrt_falls_with_the_root_of_the_step_whatever_the_length():
    assert factors(InverseSqrt, 6, warmup_steps=2) == pytest.approx(
        [0.5, 1, 1, (2 / 3) ** 0.5, (2 / 4) ** 0.5, (2 / 5) ** 0.5]
    )
    assert factors(InverseSqrt, 6, warmup_steps=2) == factors(InverseSqrt, 60, warmup_steps=2)[:6]
    assert factors(InverseSqrt, 4, timescale=1) == pytest.approx([1, 2**-0.5, 3**-0.5, 0.5])


@pytest.mark.parametrize(
    ("ours", "options", "theirs", "arguments"),
    [
        (InverseSqrt, {}, "inverse_sqrt", {}),
        (InverseSqrt, {"timescale": 3}, "inverse_sqrt", {"timescale": 3}),
        *(
            (
                WarmupStableDecay,
                {"decay_steps": 5, "shape": shape, "min_lr_fraction": 0.1},
                "warmup_stable_decay",
                {"num_decay_steps": 5, "decay_type": shape, "min_lr_ratio": 0.1},
            )
            for shape in ("linear", "cosine", "1-sqrt")
        ),
    ],
)
def test_after_warmup_they_are_those_of_transformers(ours, options, theirs, arguments):
    from transformers import get_scheduler

    for warmup in (0, 4):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        there = get_scheduler(theirs, optimizer, warmup, 20, scheduler_specific_kwargs=dict(arguments))
        rates = []
        for _ in range(20):
            rates += there.get_last_lr()
            optimizer.step()
            there.step()
        assert factors(ours, 20, warmup_steps=warmup, **options)[warmup:] == pytest.approx(rates[warmup:])


@pytest.mark.parametrize("shape", SHAPES)
def test_two_warmups_are_refused(shape):
    with pytest.raises(ValidationError, match="warmup_steps and warmup_fraction exclude each other"):
        shape.Options(warmup_steps=3, warmup_fraction=0.1)


@settings(deadline=None)
@given(
    total=st.integers(1, 50), shape=st.sampled_from(SHAPES), warmup=st.integers(0, 60), floor=st.floats(0, 1)
)
def test_every_step_learns_and_none_exceeds_the_peak(total, shape, warmup, floor):
    more = {} if shape in (Constant, InverseSqrt) else {"min_lr_fraction": floor}
    for factor in factors(shape, total, warmup_steps=warmup, **more):
        assert 0 < factor <= 1
