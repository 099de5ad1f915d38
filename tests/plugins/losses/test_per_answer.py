"""NCA, BCO, SPPO, Cal-DPO and APO against numbers worked out by hand. The log-ratios are 2 and -3."""

import pytest
from pydantic import ValidationError

from dpotrain_plugins.losses import ApoDown, ApoZero, Bco, CalDpo, Dpo, Nca, Sppo
from tests.plugins.losses.scoring import rewards_of, value_of


def test_nca_by_hand():
    """Rewards 1 and -1.5: 0.3132617 + 1.3132617 / 2 + 0.2014133 / 2 = 1.0705992."""
    assert value_of(Nca, beta=0.5) == pytest.approx(1.0705992, abs=1e-6)


def test_nca_has_its_optimum_for_the_chosen_answer_at_a_finite_reward():
    """-log sigmoid(c) - log sigmoid(-c) / 2 has the derivative sigmoid(c) / 2 - sigmoid(-c), zero at c = ln 2."""
    at, before, beyond = (
        value_of(Nca, pair=(reward, 0.0, 0.0, 0.0), beta=1.0) for reward in (0.693147, 0.6, 0.8)
    )
    assert at < min(before, beyond)


def test_bco_by_hand():
    """Rewards 1 and -1.5: 0.3132617 + 0.2014133 = 0.5146750."""
    assert value_of(Bco, beta=0.5, running_mean=False) == pytest.approx(0.5146750, abs=1e-6)


def test_sppo_by_hand():
    """The targets are 5 and -5: (2 - 5)^2 + (-3 + 5)^2 = 13."""
    assert value_of(Sppo, beta=0.1) == pytest.approx(13, abs=1e-5)


def test_sppo_is_zero_at_its_targets():
    assert value_of(Sppo, pair=(-5.0, -15.0, -10.0, -10.0), beta=0.1) == 0


def test_cal_dpo_by_hand_has_no_beta_in_the_sigmoid():
    """log(1 + exp(-5)) = 0.0067153, beside the 13 of SPPO, or half of it."""
    assert value_of(CalDpo, beta=0.1) == pytest.approx(13.0067153, abs=1e-5)
    assert value_of(CalDpo, beta=0.1, calibration_weight=0.5) == pytest.approx(6.5067153, abs=1e-5)
    assert value_of(CalDpo, beta=0.1, calibration_weight=0) == pytest.approx(value_of(Dpo, beta=1), abs=1e-7)


def test_apo_zero_by_hand():
    """-sigmoid(1) + sigmoid(-1.5) = -0.7310586 + 0.1824255 = -0.5486331."""
    assert value_of(ApoZero, beta=0.5) == pytest.approx(-0.5486331, abs=1e-6)


def test_apo_down_by_hand():
    """sigmoid(1) - sigmoid(2.5) = 0.7310586 - 0.9241418 = -0.1930832."""
    assert value_of(ApoDown, beta=0.5) == pytest.approx(-0.1930832, abs=1e-6)


@pytest.mark.parametrize("kind", [Nca, Bco, Sppo, CalDpo, ApoZero, ApoDown])
def test_rewards_are_those_of_dpo(kind):
    assert rewards_of(kind, beta=0.5) == (1.0, -1.5)


def test_a_negative_weight_is_refused():
    with pytest.raises(ValidationError, match="calibration_weight"):
        CalDpo.Options(calibration_weight=-1)
