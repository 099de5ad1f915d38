"""DPOP, ODPO, R-DPO and DPO-Shift against numbers worked out by hand. The log-ratios are 2 and -3."""

import math

import pytest
import torch
from pydantic import ValidationError

from dpotrain.core.scores import PairScores
from dpotrain_plugins.losses import Dpo, Dpop, DpoShift, Odpo, RDpo
from tests.plugins.losses.scoring import loss_of, rewards_of, scores_of, value_of

#: The chosen answer lost 2 nats, the rejected one 3: log-ratios -2 and -3, whose difference is 1.
LOST = (-14.0, -11.0, -12.0, -8.0)


def test_dpop_by_hand():
    """0.5 * (1 - 2 * 2) = -1.5, and log(1 + exp(1.5)) = 1.7014133."""
    assert value_of(Dpop, pair=LOST, beta=0.5, penalty=2) == pytest.approx(1.7014133, abs=1e-6)


def test_dpop_is_dpo_where_the_chosen_answer_got_likelier():
    """log(1 + exp(-2.5)) = 0.0788897, whatever the penalty."""
    assert value_of(Dpop, beta=0.5, penalty=50) == pytest.approx(0.0788897, abs=1e-6)


def test_dpop_has_one_gradient_before_the_first_update_whatever_the_rounding():
    """DPO's, -beta / 2, for the penalty begins where an answer has lost something: at -0.01 nats -beta (1 + 50) / 2."""

    def gradient(ratio):
        chosen = torch.tensor([ratio], requires_grad=True)
        zero, one = torch.zeros(1), torch.ones(1).long()
        loss_of(Dpop, beta=0.5).losses(PairScores(chosen, zero, zero, zero, one, one)).sum().backward()
        return chosen.grad.item()

    assert [gradient(ratio) for ratio in (-1e-5, 0.0, 1e-5)] == pytest.approx([-0.25] * 3, abs=1e-4)
    assert gradient(-0.01) == pytest.approx(-12.75 * 2 / (1 + math.exp(-0.5 * 0.51)), rel=1e-4)


def test_odpo_by_hand():
    """0.1 * 5 - 0.5 * 2 = -0.5, and log(1 + exp(0.5)) = 0.9740770."""
    assert value_of(Odpo, margin=2.0, beta=0.1, alpha=0.5) == pytest.approx(0.9740770, abs=1e-6)


def test_odpo_has_no_first_loss_and_reads_a_column():
    assert loss_of(Odpo).first_loss() is None
    assert Odpo.columns == ("margin",)


def test_r_dpo_by_hand_wants_less_margin_of_longer_chosen_answers():
    """Two tokens longer: 0.1 * 5 + 0.25 * 2 = 1, log(1 + exp(-1)) = 0.3132617; two shorter: 0, ln 2."""
    assert value_of(RDpo, tokens=(4, 2), beta=0.1, alpha=0.25) == pytest.approx(0.3132617, abs=1e-6)
    assert value_of(RDpo, tokens=(2, 4), beta=0.1, alpha=0.25) == pytest.approx(math.log(2), abs=1e-6)


def test_r_dpo_learns_long_chosen_answers_less():
    """What the regularization is for: the gradient is smaller where the chosen answer is the longer one."""

    def pull(tokens):
        scores = scores_of((-10.0, -10.0, -10.0, -10.0), tokens=tokens)
        scores.policy_chosen.requires_grad_()
        loss_of(RDpo, alpha=0.1)(scores).sum().backward()
        return abs(scores.policy_chosen.grad.item())

    assert pull((40, 20)) < pull((30, 30)) < pull((20, 40))


def test_r_dpo_without_penalty_has_the_first_loss_of_dpo():
    assert loss_of(RDpo, alpha=0).first_loss() == math.log(2)
    assert loss_of(RDpo, alpha=0.1).first_loss() is None


def test_dpo_shift_by_hand():
    """0.5 * (2 - 0.5 * -3) = 1.75, and log(1 + exp(-1.75)) = 0.1602237."""
    assert value_of(DpoShift, beta=0.5, rejected_share=0.5) == pytest.approx(0.1602237, abs=1e-6)
    assert value_of(DpoShift, beta=0.5, rejected_share=1) == value_of(Dpo, beta=0.5)


@pytest.mark.parametrize(("step", "share"), [(0, 0.5), (1, 0.5), (2, 0.6), (5, 0.9)])
def test_the_share_of_dpo_shift_changes_linearly_over_the_run(step, share):
    """Over 5 steps from 0.5 to 1: the share of a step is that of the steps before it."""
    moving = {"rejected_share": 0.5, "last_rejected_share": 1.0}
    value = value_of(DpoShift, step=step, total_steps=5, **moving)
    assert value == pytest.approx(value_of(DpoShift, rejected_share=share), abs=1e-6)


@pytest.mark.parametrize("kind", [Dpop, Odpo, RDpo, DpoShift])
def test_rewards_are_those_of_dpo(kind):
    assert rewards_of(kind, beta=0.5) == (1.0, -1.5)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Dpop, {"penalty": -1}),
        (Odpo, {"alpha": -1}),
        (RDpo, {"alpha": -0.1}),
        (DpoShift, {"rejected_share": 0}),
        (DpoShift, {"rejected_share": 1.1}),
        (DpoShift, {"last_rejected_share": 0}),
    ],
)
def test_meaningless_options_are_refused(kind, options):
    with pytest.raises(ValidationError, match=next(iter(options))):
        kind.Options(**options)
