"""The loss under divergences, and with the columns of pairs, by hand and against the formulas in float64."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpotrain.core.scores import PairScores
from dpotrain.engine.scoring.objective import exchanged, pair_losses, pair_rewards
from dpotrain_plugins.losses import Dpo, Hinge

#: Two pairs: log-ratios (2, -3) and (-1, 1) of chosen and rejected.
SCORES = PairScores(
    policy_chosen=torch.tensor([-10.0, -6.0]),
    policy_rejected=torch.tensor([-11.0, -4.0]),
    reference_chosen=torch.tensor([-12.0, -5.0]),
    reference_rejected=torch.tensor([-8.0, -5.0]),
    chosen_tokens=torch.tensor([2, 1]),
    rejected_tokens=torch.tensor([1, 3]),
    policy_tokens=torch.arange(7.0),
)
#: f'(u) without its constant, as a function of u = exp(x), from the generator of each divergence.
DERIVATIVES = {
    "reverse-kl": math.log,  # f = u log u
    "forward-kl": lambda u: -1 / u,  # f = -log u
    "jensen-shannon": lambda u: math.log(u / (1 + u)),  # f = u log u - (1 + u) log((1 + u) / 2)
    "chi-squared": lambda u: u + math.log(u),  # f = u^2 / 2 + u log u
}


def of_columns(**columns):
    return replace(SCORES, columns={name: torch.tensor(values) for name, values in columns.items()})


@pytest.mark.parametrize("divergence", [*DERIVATIVES, "alpha"])
@settings(max_examples=30, deadline=None)
@given(chosen=st.floats(-6, 6), rejected=st.floats(-6, 6), beta=st.floats(0.01, 1), alpha=st.floats(0.1, 1))
def test_a_divergence_changes_the_reward_to_its_derivative(divergence, chosen, rejected, beta, alpha):
    def derivative(u):
        return (1 - u**-alpha) / alpha if divergence == "alpha" else DERIVATIVES[divergence](u)

    zero, one = torch.zeros(1), torch.ones(1, dtype=torch.int64)
    scores = PairScores(torch.tensor([chosen]), torch.tensor([rejected]), zero, zero, one, one)
    loss = Dpo(Dpo.Options(beta=beta, divergence=divergence, divergence_alpha=alpha))
    rewards = [beta * derivative(math.exp(x)) for x in (chosen, rejected)]
    assert [each.item() for each in pair_rewards(loss, scores)] == pytest.approx(rewards, rel=1e-4, abs=1e-4)
    expected = math.log1p(math.exp(rewards[1] - rewards[0])) if rewards[1] - rewards[0] < 700 else None
    if expected is not None:
        assert pair_losses(loss, scores).item() == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("divergence", [*DERIVATIVES, "alpha"])
def test_the_first_loss_is_the_same_under_every_divergence_and_far_scores_stay_finite(divergence):
    loss = Dpo(Dpo.Options(divergence=divergence, divergence_alpha=0.5))
    same = replace(SCORES, policy_chosen=SCORES.reference_chosen, policy_rejected=SCORES.reference_rejected)
    assert pair_losses(loss, same).tolist() == pytest.approx([math.log(2)] * 2, abs=1e-5)
    far = replace(SCORES, policy_chosen=torch.tensor([1e4, -1e4]).requires_grad_())
    losses = pair_losses(loss, far)
    losses.sum().backward()
    assert losses.isfinite().all()
    assert far.policy_chosen.grad.isfinite().all()


def test_weight_multiplies_and_margin_is_taken_off():
    """beta h is 0.5 and -0.2; with margins 1 and -1 it is -0.5 and 0.8."""
    loss = Dpo(Dpo.Options(beta=0.1))
    scores = of_columns(weight=[2.0, 0.0], margin=[1.0, -1.0])
    plain = [math.log1p(math.exp(-0.5)), math.log1p(math.exp(0.2))]
    assert pair_losses(loss, scores).tolist() == pytest.approx(plain, abs=1e-6)  # columns that nothing maps
    assert pair_losses(loss, scores, {"weight"}).tolist() == pytest.approx([2 * plain[0], 0], abs=1e-6)
    moved = [math.log1p(math.exp(0.5)), math.log1p(math.exp(-0.8))]
    assert pair_losses(loss, scores, {"margin"}).tolist() == pytest.approx(moved, abs=1e-6)
    hinge = Hinge(Hinge.Options(beta=0.1))
    assert pair_losses(hinge, scores, {"margin"}).tolist() == pytest.approx([1.5, 0.2], abs=1e-6)


def test_a_soft_label_is_the_mean_over_both_ways_round():
    """0.8 of -log sigmoid(0.5) and 0.2 of -log sigmoid(-0.5), as label smoothing of 0.2 has it for all pairs."""
    scores = of_columns(label_probability=[0.8, 0.8])
    soft = pair_losses(Dpo(Dpo.Options(beta=0.1)), scores, {"label_probability"})
    smoothed = pair_losses(Dpo(Dpo.Options(beta=0.1, label_smoothing=0.2)), SCORES)
    torch.testing.assert_close(soft, smoothed)


def test_exchanged_scores_have_the_tokens_of_the_other_answer_first():
    turned = exchanged(SCORES)
    assert turned.policy_tokens.tolist() == [2, 0, 1, 4, 5, 6, 3]
    assert turned.chosen_tokens.tolist() == [1, 3]
    assert turned.reference_chosen.tolist() == SCORES.reference_rejected.tolist()
    again = exchanged(turned)
    for name in ("policy_chosen", "policy_rejected", "reference_chosen", "policy_tokens", "rejected_tokens"):
        assert torch.equal(getattr(again, name), getattr(SCORES, name))


@pytest.mark.parametrize("divergence", ["forward-kl", "alpha"])
def test_a_pair_that_the_reference_likes_far_better_still_has_a_gradient(divergence):
    """Beyond e^20 the exponential goes on as its tangent: were it cut off, the pair would never be learned again."""
    loss = Dpo(Dpo.Options(beta=0.1, divergence=divergence, divergence_alpha=0.5))
    chosen = torch.tensor([-150.0, -40.0]).requires_grad_()
    losses = pair_losses(loss, replace(SCORES, policy_chosen=chosen))
    losses.sum().backward()
    assert chosen.grad[0] < 0
    assert chosen.grad.isfinite().all()
