"""SFT, SLiC, CPO and ORPO against numbers worked out by hand. The policy's log-probs are -10 and -11."""

import pytest
import torch
from pydantic import ValidationError

from dpotrain_plugins.losses import Cpo, Orpo, Sft, Slic
from tests.plugins.losses.scoring import loss_of, rewards_of, scores_of, value_of

#: Over 10 and 11 tokens the mean log-probs are -1 and -2.
MEANS = {"pair": (-10.0, -22.0, 0.0, 0.0), "tokens": (10, 11)}


def test_sft_by_hand():
    """10 / 4, whatever the rejected answer is."""
    assert value_of(Sft, tokens=(4, 2)) == 2.5
    assert value_of(Sft, pair=(-10.0, -1.0, 0.0, 0.0), tokens=(4, 9)) == 2.5
    assert rewards_of(Sft, tokens=(4, 2)) == (-2.5, -5.5)


def test_slic_by_hand():
    """max(0, 3 + 10 - 11) = 2, and 0.5 * 10 = 5; one nat ahead where one is asked for: 0."""
    assert value_of(Slic, delta=3, weight=0.5) == 7
    assert value_of(Slic, delta=1, weight=0.5) == 5
    assert value_of(Slic, delta=1, weight=0) == 0
    assert rewards_of(Slic) == (-10, -11)


def test_cpo_by_hand():
    """log(1 + exp(-0.1)) = 0.6443967, and 0.5 * 10 = 5, or 0.5 * 10 / 4 = 1.25."""
    assert value_of(Cpo, beta=0.1, weight=0.5) == pytest.approx(5.6443967, abs=1e-6)
    assert value_of(Cpo, tokens=(4, 2), beta=0.1, weight=0.5, nll="mean") == pytest.approx(
        1.8943967, abs=1e-6
    )
    assert rewards_of(Cpo, beta=0.5) == (-5, -5.5)


def test_orpo_by_hand():
    """Odds 0.3678794 / 0.6321206 = 0.5819767 and 0.1353353 / 0.8646647 = 0.1565176, logs -0.5413249 and -1.8545865.

    log(1 + exp(-1.3132617)) = 0.2381830; 1 + 0.5 * 0.2381830 = 1.1190915.
    """
    assert value_of(Orpo, **MEANS, weight=0.5) == pytest.approx(1.1190915, abs=1e-6)
    assert rewards_of(Orpo, **MEANS) == pytest.approx((-0.5413249, -1.8545865), abs=1e-6)


@pytest.mark.parametrize("mean", [0.0, -1e-9, -1e-7, -1e-5, -0.6931, -0.6932, -30.0, -1e4])
def test_odds_are_finite_for_certain_and_for_hopeless_answers(mean):
    scores = scores_of((mean, -1.0, 0.0, 0.0))
    scores.policy_chosen.requires_grad_()
    losses = loss_of(Orpo)(scores)
    losses.sum().backward()
    assert losses.isfinite().all()
    assert scores.policy_chosen.grad.isfinite().all()
    if mean < -1e-6:
        exact = torch.tensor(mean, dtype=torch.float64)
        expected = (exact - (-torch.expm1(exact)).log()).item()
        assert rewards_of(Orpo, pair=(mean, -1.0, 0.0, 0.0))[0] == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("kind", [Sft, Slic, Cpo, Orpo])
def test_none_needs_a_reference(kind):
    assert not kind.needs_reference
    assert loss_of(kind).first_loss() is None


@pytest.mark.parametrize("kind", [Sft, Slic, Orpo])
def test_beta_is_refused_where_the_loss_has_none(kind):
    """TRL's beta of ORPO is the weight here: a beta without effect would hide that."""
    with pytest.raises(ValidationError, match="beta"):
        kind.Options(beta=0.1)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Slic, {"delta": -1}),
        (Slic, {"weight": -1}),
        (Cpo, {"weight": -1}),
        (Cpo, {"nll": "batch"}),
        (Orpo, {"weight": -1}),
    ],
)
def test_meaningless_options_are_refused(kind, options):
    with pytest.raises(ValidationError, match=next(iter(options))):
        kind.Options(**options)
