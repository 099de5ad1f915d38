"""The losses against numbers worked out by hand, and the properties that every pairwise loss must have."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dpotrain.core.scores import PairScores
from dpotrain.plugin.api import LossWithoutBeta
from dpotrain_plugins.losses import Dpo, Hinge, Ipo
from tests.plugins.losses.scoring import PAIR, loss_of, scores_of

KINDS = [Dpo, Ipo, Hinge]
logps = st.floats(-500, 0, width=32)
betas = st.floats(0.01, 2)
quick = settings(max_examples=40, deadline=None)


def test_dpo_by_hand():
    """-log sigmoid(0.5) = log(1 + exp(-0.5)) = log(1.6065307) = 0.4740770."""
    value = loss_of(Dpo, beta=0.1)(scores_of(PAIR))
    assert value.tolist() == pytest.approx([0.4740770], abs=1e-6)


def test_label_smoothing_by_hand():
    """0.9 * 0.4740770 + 0.1 * log(1 + exp(0.5)) = 0.4266693 + 0.1 * 0.9740770 = 0.5240770."""
    value = loss_of(Dpo, beta=0.1, label_smoothing=0.1)(scores_of(PAIR))
    assert value.tolist() == pytest.approx([0.5240770], abs=1e-6)


def test_ipo_by_hand_averages_log_ratios_over_tokens():
    """Chosen: 2 / 4 = 0.5, rejected -3 / 2 = -1.5, h = 2; the target is 1 / 0.2 = 5; (2 - 5)^2 = 9."""
    value = loss_of(Ipo, beta=0.1)(scores_of(PAIR, tokens=(4, 2)))
    assert value.tolist() == pytest.approx([9.0], abs=1e-5)


def test_hinge_by_hand():
    """max(0, 1 - 0.5) = 0.5; and with beta 0.5 the margin 2.5 exceeds one: 0."""
    assert loss_of(Hinge, beta=0.1)(scores_of(PAIR)).tolist() == pytest.approx([0.5], abs=1e-6)
    assert loss_of(Hinge, beta=0.5)(scores_of(PAIR)).tolist() == [0.0]


def test_dpo_gradient_by_hand():
    """By policy_chosen -beta * sigmoid(-beta h) = -0.1 * 0.3775407, and the opposite by policy_rejected."""
    scores = scores_of(PAIR)
    scores.policy_chosen.requires_grad_()
    scores.policy_rejected.requires_grad_()
    loss_of(Dpo, beta=0.1)(scores).sum().backward()
    assert scores.policy_chosen.grad.item() == pytest.approx(-0.03775407, abs=1e-7)
    assert scores.policy_rejected.grad.item() == pytest.approx(0.03775407, abs=1e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("away", [-1.0, 1.0])
def test_gradients_match_finite_differences(kind, away):
    """Central differences in float32 around a margin away from the hinge's corner."""
    loss = loss_of(kind, beta=0.3)
    start = torch.tensor([-4.0 + away, -5.0])

    def value(policy):
        lengths = torch.tensor([3])
        fixed = torch.tensor([-4.0]), torch.tensor([-5.0])
        return loss(PairScores(policy[:1], policy[1:], *fixed, lengths, lengths)).sum()

    policy = start.clone().requires_grad_()
    value(policy).backward()
    step = 1e-2
    numeric = [
        (value(start + step * unit) - value(start - step * unit)) / (2 * step) for unit in torch.eye(2)
    ]
    torch.testing.assert_close(policy.grad, torch.stack(numeric), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@quick
@given(beta=betas, chosen=logps, rejected=logps, tokens=st.tuples(*[st.integers(1, 2000)] * 2))
def test_first_loss_is_the_loss_while_policy_is_reference(kind, beta, chosen, rejected, tokens):
    loss = loss_of(kind, beta=beta)
    value = loss(scores_of((chosen, rejected, chosen, rejected), tokens=tokens))
    assert value.item() == pytest.approx(loss.first_loss(), rel=1e-6)


@quick
@given(smoothing=st.floats(0, 0.49), beta=betas, logp=logps)
def test_first_loss_with_label_smoothing_is_ln_2(smoothing, beta, logp):
    loss = loss_of(Dpo, beta=beta, label_smoothing=smoothing)
    assert loss(scores_of((logp, logp, logp, logp))).item() == pytest.approx(math.log(2), abs=1e-6)
    assert loss.first_loss() == math.log(2)


@quick
@given(pair=st.tuples(logps, logps, logps, logps), beta=st.floats(0.01, 0.5))
def test_swapping_the_answers_mirrors_the_margin(pair, beta):
    """-log sigmoid(m) + m = -log sigmoid(-m): the two labels' losses differ by exactly the margin."""
    chosen, rejected, ref_chosen, ref_rejected = pair
    loss = loss_of(Dpo, beta=beta)
    here = loss(scores_of(pair)).item()
    swapped = loss(scores_of((rejected, chosen, ref_rejected, ref_chosen))).item()
    margin = beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
    assert swapped - here == pytest.approx(margin, abs=1e-3, rel=1e-4)


@quick
@given(pair=st.tuples(logps, logps, logps, logps), smoothing=st.floats(0, 0.49), beta=st.floats(0.01, 0.5))
def test_label_smoothing_is_the_mixture_of_both_labels(pair, smoothing, beta):
    chosen, rejected, ref_chosen, ref_rejected = pair
    swapped = (rejected, chosen, ref_rejected, ref_chosen)
    plain = loss_of(Dpo, beta=beta)
    mixture = (1 - smoothing) * plain(scores_of(pair)) + smoothing * plain(scores_of(swapped))
    smoothed = loss_of(Dpo, beta=beta, label_smoothing=smoothing)(scores_of(pair))
    torch.testing.assert_close(smoothed, mixture, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [Dpo, Hinge])
@quick
@given(pair=st.tuples(logps, logps, logps, logps), gain=st.floats(0, 100), beta=betas)
def test_a_wider_margin_never_costs_more(kind, pair, gain, beta):
    loss = loss_of(kind, beta=beta)
    chosen, rejected, *reference = pair
    assert loss(scores_of((chosen + gain, rejected, *reference))) <= loss(scores_of(pair)) + 1e-6


@quick
@given(beta=betas, tokens=st.integers(1, 500), off=st.floats(-3, 3))
def test_ipo_is_least_at_its_target_margin_and_grows_to_both_sides(beta, tokens, off):
    """At a per-token margin of 1 / (2 beta) the loss is zero; ``off`` nats away it is off squared."""
    margin = tokens * (1 / (2 * beta) + off)
    value = loss_of(Ipo, beta=beta)(scores_of((margin, 0.0, 0.0, 0.0), tokens=(tokens, 7)))
    assert value.item() == pytest.approx(off**2, abs=5e-3, rel=1e-2)


@pytest.mark.parametrize(
    "options", [{"beta": 0}, {"beta": -1}, {"label_smoothing": 0.5}, {"label_smoothing": -0.1}]
)
def test_meaningless_options_are_refused(options):
    with pytest.raises(ValidationError):
        Dpo.Options(**options)


class Absolute(LossWithoutBeta):
    """As a plugin's author writes one."""

    name = "absolute"

    class Options(LossWithoutBeta.Options):
        scale: float = 1.0

    options: Options

    def __call__(self, scores):
        return self.options.scale * (scores.rejected_logratio - scores.chosen_logratio).abs()


def test_a_loss_without_beta_refuses_it_and_has_the_log_ratios_for_rewards():
    loss = loss_of(Absolute, scale=2.0)
    scores = scores_of(PAIR)
    assert loss.losses(scores).tolist() == [10.0]
    assert [each.tolist() for each in loss.rewards(scores)] == [[2.0], [-3.0]]
    with pytest.raises(ValidationError, match="this loss has no beta of its own; leave it out"):
        Absolute.Options(beta=0.1)
