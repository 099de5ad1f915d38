"""DiscoPOP against numbers worked out by hand."""

import math

import pytest
from pydantic import ValidationError

from dpotrain_plugins.losses import DiscoPop, Dpo
from tests.plugins.losses.scoring import loss_of, rewards_of, value_of


def test_discopop_by_hand():
    """Margin 0.5, tau 0.5: s = sigmoid(1) = 0.7310586; 0.2689414 * 0.4740770 + 0.7310586 * exp(-0.5) = 0.5709083."""
    assert value_of(DiscoPop, beta=0.1, tau=0.5) == pytest.approx(0.5709083, abs=1e-6)


def test_it_is_logistic_below_zero_and_exponential_above():
    assert value_of(DiscoPop, pair=(-3.0, 0.0, 0.0, 0.0), beta=1) == pytest.approx(
        value_of(Dpo, pair=(-3.0, 0.0, 0.0, 0.0), beta=1), abs=1e-6
    )
    assert value_of(DiscoPop, pair=(3.0, 0.0, 0.0, 0.0), beta=1) == pytest.approx(math.exp(-3), abs=1e-6)


@pytest.mark.parametrize("tau", [0.05, 0.1, 0.2])
def test_around_a_margin_of_zero_it_rises_with_a_narrow_width_and_falls_with_a_wide_one(tau):
    low, high = (
        value_of(DiscoPop, pair=(margin, 0.0, 0.0, 0.0), beta=1, tau=tau) for margin in (-1e-2, 1e-2)
    )
    slope = (1 - math.log(2)) / (4 * tau) - 0.75
    assert (high - low) / 2e-2 == pytest.approx(slope, abs=0.02)
    assert (slope > 0) is (tau <= 0.1)


def test_rewards_are_those_of_dpo():
    assert rewards_of(DiscoPop, beta=0.5) == (1.0, -1.5)


def test_the_first_loss_is_half_of_each():
    assert loss_of(DiscoPop).first_loss() == pytest.approx(0.8465736, abs=1e-7)


@pytest.mark.parametrize("tau", [0, -1, 1.5])
def test_meaningless_widths_are_refused(tau):
    with pytest.raises(ValidationError, match="tau"):
        DiscoPop.Options(tau=tau)
