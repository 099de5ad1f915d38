"""A loss that jumps is told of once; noise and a loss that falls are not."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpotrain.run.spikes import ENOUGH, SpikeWatch
from tests.run.recipes import Recording, project, run


def told(losses):
    watch = SpikeWatch()
    return [step for step, loss in enumerate(losses, 1) if watch.warning(step, loss)]


def noisy(count, seed=0):
    draw = random.Random(seed)
    return [0.65 - 0.002 * step + draw.gauss(0, 0.05) for step in range(count)]


def test_the_first_step_of_a_jump_is_told_and_the_loss_before_it():
    losses = noisy(40)
    watch = SpikeWatch()
    assert not any(watch.warning(step, loss) for step, loss in enumerate(losses, 1))
    text = watch.warning(41, 2.75)
    assert text.startswith("step 41: the loss jumped to 2.75; over the 40 steps before it the median was 0.")
    assert "optimizer.lr" in text
    assert not watch.warning(42, 2.8)
    assert not watch.warning(43, 0.6)
    assert watch.warning(44, 3.0)


@pytest.mark.parametrize("seed", range(5))
def test_noise_around_a_falling_loss_is_no_spike(seed):
    assert told(noisy(300, seed)) == []


@given(st.lists(st.floats(0, 10), max_size=ENOUGH))
def test_nothing_is_said_before_there_is_enough_to_compare_with(losses):
    assert told(losses) == []


@given(st.floats(0, 5), st.floats(0, 0.39))
def test_a_constant_loss_that_moves_a_little_is_no_spike(loss, share):
    assert told([loss] * 40 + [loss * (1 + share)]) == []


@given(st.lists(st.sampled_from([float("nan"), float("inf"), float("-inf")]), max_size=80), st.randoms())
def test_steps_that_were_left_out_change_nothing(odd, draw):
    losses = noisy(40)
    mixed = [*losses, *odd]
    draw.shuffle(mixed)
    watch, plain = SpikeWatch(), SpikeWatch()
    for loss in mixed:
        assert not watch.warning(1, loss)
        if loss in losses:
            plain.warning(1, loss)
    assert watch.warning(41, 2.75) == plain.warning(41, 2.75) != ""


def test_a_run_tells_of_it(tmp_path):
    """With a learning rate a thousand times too high the loss jumps."""
    recipe = project(tmp_path)
    reporter = Recording()
    overrides = ["training.epochs=12", "schedule.warmup_fraction=0.5", "optimizer.lr=0.5", "loss.beta=2.0"]
    run(recipe, *overrides, reporter=reporter)
    assert any("the loss jumped to" in warning for warning in reporter.warnings)
