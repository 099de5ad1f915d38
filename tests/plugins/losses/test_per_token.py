"""DPO-norm, SimPO, AlphaPO and SimPER against numbers worked out by hand."""

import math

import pytest
from pydantic import ValidationError

from dpotrain_plugins.losses import AlphaPo, DpoNorm, Simper, Simpo
from tests.plugins.losses.scoring import loss_of, rewards_of, value_of

#: Over 10 and 11 tokens the mean log-probs are -1 and -2.
MEANS = {"pair": (-10.0, -22.0, 0.0, 0.0), "tokens": (10, 11)}


def test_dpo_norm_by_hand():
    """Log-ratios 2 and -3 over 4 and 2 tokens: 2 * (0.5 + 1.5) = 4, and log(1 + exp(-4)) = 0.0181499."""
    assert value_of(DpoNorm, tokens=(4, 2), beta=2) == pytest.approx(0.0181499, abs=1e-6)


def test_rewards_of_dpo_norm_are_per_token():
    assert rewards_of(DpoNorm, tokens=(4, 2), beta=2) == (1.0, -3.0)


def test_simpo_by_hand():
    """2 * (-1 + 2) - 0.5 = 1.5, and log(1 + exp(-1.5)) = 0.2014133."""
    assert value_of(Simpo, **MEANS, beta=2, gamma=0.5) == pytest.approx(0.2014133, abs=1e-6)


def test_gamma_of_simpo_may_be_a_share_of_beta():
    """A quarter of 2, which is also what it is unless one of the two is set."""
    expected = value_of(Simpo, **MEANS, beta=2, gamma=0.5)
    assert value_of(Simpo, **MEANS, beta=2, gamma_beta_ratio=0.25) == expected
    assert value_of(Simpo, **MEANS) == expected


@pytest.mark.parametrize("kind", [Simpo, AlphaPo])
def test_two_margins_are_refused(kind):
    with pytest.raises(ValidationError, match="gamma and gamma_beta_ratio are two ways to set one margin"):
        kind.Options(gamma=0.5, gamma_beta_ratio=0.25)


def test_rewards_of_simpo_are_mean_log_probs():
    assert rewards_of(Simpo, **MEANS, beta=2) == (-2.0, -4.0)


def test_alphapo_by_hand():
    """alpha 1: rewards 1 - e = -1.7182818 and 1 - e^2 = -6.3890561; log(1 + exp(-4.6707743)) = 0.0093220."""
    options = {"beta": 1, "gamma": 0, "alpha": 1}
    assert rewards_of(AlphaPo, **MEANS, **options) == pytest.approx((-1.7182818, -6.3890561), abs=1e-6)
    assert value_of(AlphaPo, **MEANS, **options) == pytest.approx(0.0093220, abs=1e-6)


def test_alphapo_with_a_negative_alpha_by_hand():
    """alpha -1: rewards p - 1, so that beta 2 gives 2 * (0.3678794 - 1) and 2 * (0.1353353 - 1)."""
    rewards = rewards_of(AlphaPo, **MEANS, beta=2, alpha=-1)
    assert rewards == pytest.approx((-1.2642411, -1.7293294), abs=1e-6)


def test_alphapo_becomes_simpo_as_alpha_goes_to_0():
    simpo = value_of(Simpo, **MEANS, beta=2, gamma=0.5)
    assert value_of(AlphaPo, **MEANS, beta=2, gamma=0.5, alpha=0) == simpo
    for alpha in (1e-4, -1e-4):
        assert value_of(AlphaPo, **MEANS, beta=2, gamma=0.5, alpha=alpha) == pytest.approx(simpo, abs=1e-3)


def test_alphapo_has_the_margin_of_its_paper():
    """gamma is 0.1 with beta 2.5."""
    assert value_of(AlphaPo, **MEANS) == value_of(AlphaPo, **MEANS, beta=2.5, gamma=0.1, alpha=0.25)


def test_simper_by_hand():
    """-exp(-1) + exp(-2) = -0.3678794 + 0.1353353 = -0.2325442."""
    assert value_of(Simper, **MEANS) == pytest.approx(-0.2325442, abs=1e-6)
    assert rewards_of(Simper, **MEANS) == pytest.approx((0.3678794, 0.1353353), abs=1e-6)


def test_simper_has_no_keys():
    with pytest.raises(ValidationError, match="beta"):
        Simper.Options(beta=0.1)


@pytest.mark.parametrize("kind", [Simpo, AlphaPo, Simper])
def test_losses_without_a_reference_have_no_first_loss(kind):
    assert loss_of(kind).first_loss() is None
    assert not kind.needs_reference


def test_a_first_loss_of_the_normalized_ones():
    assert loss_of(DpoNorm).first_loss() == math.log(2)


@pytest.mark.parametrize(
    ("kind", "options"),
    [(DpoNorm, {"beta": 0}), (Simpo, {"gamma": -1}), (Simpo, {"gamma_beta_ratio": -1}), (AlphaPo, {"alpha": 6})],
)  # fmt: skip
def test_meaningless_options_are_refused(kind, options):
    with pytest.raises(ValidationError, match=next(iter(options))):
        kind.Options(**options)
