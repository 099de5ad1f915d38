"""Values and gradients of every loss against float64 autograd of its formula, written down here as papers have it."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import exp, log, maximum, sigmoid

from dpotrain.core.scores import PairScores
from dpotrain_plugins.losses import (
    LOSSES,
    AlphaPo,
    ApoDown,
    ApoZero,
    Bco,
    CalDpo,
    Cpo,
    DiscoPop,
    Dpo,
    DpoNorm,
    Dpop,
    DpoShift,
    Exo,
    Hinge,
    Ipo,
    Nca,
    Odpo,
    Orpo,
    RDpo,
    Robust,
    Sft,
    Simper,
    Simpo,
    Slic,
    Sppo,
)
from tests.plugins.losses.scoring import loss_of

MARGIN = 0.75
ZERO = torch.zeros((), dtype=torch.float64)


@dataclass(frozen=True)
class Pair:
    """Float64 scalars: the policy's log-probs, the log-ratios, and the numbers of tokens."""

    lw: torch.Tensor
    ll: torch.Tensor
    c: torch.Tensor
    r: torch.Tensor
    nw: int
    nl: int

    @property
    def h(self):
        return self.c - self.r

    @property
    def pw(self):
        """The geometric mean of the chosen answer's probabilities."""
        return exp(self.lw / self.nw)

    @property
    def pl(self):
        return exp(self.ll / self.nl)


def logistic(margin):
    return -log(sigmoid(margin))


def calibration(p, beta):
    return (p.c - 1 / (2 * beta)) ** 2 + (p.r + 1 / (2 * beta)) ** 2


#: Options and the formula with them.
FORMULAS = {
    Dpo: ({"beta": 0.2, "label_smoothing": 0.1}, lambda p: 0.9 * logistic(0.2 * p.h) + 0.1 * logistic(-0.2 * p.h)),
    Ipo: ({"beta": 0.2}, lambda p: (p.c / p.nw - p.r / p.nl - 2.5) ** 2),
    Hinge: ({"beta": 0.2}, lambda p: maximum(ZERO, 1 - 0.2 * p.h)),
    Robust: (
        {"beta": 0.2, "label_smoothing": 0.2},
        lambda p: (0.8 * logistic(0.2 * p.h) - 0.2 * logistic(-0.2 * p.h)) / 0.6,
    ),
    Exo: (
        {"beta": 0.2, "label_smoothing": 0.05},
        lambda p: sigmoid(0.2 * p.h) * log(sigmoid(0.2 * p.h) / 0.95)
        + sigmoid(-0.2 * p.h) * log(sigmoid(-0.2 * p.h) / 0.05),
    ),
    DpoNorm: ({"beta": 5}, lambda p: logistic(5 * (p.c / p.nw - p.r / p.nl))),
    Dpop: ({"beta": 0.2, "penalty": 3}, lambda p: logistic(0.2 * (p.h - 3 * maximum(ZERO, -p.c)))),
    Odpo: ({"beta": 0.2, "alpha": 2}, lambda p: logistic(0.2 * p.h - 2 * MARGIN)),
    RDpo: ({"beta": 0.2, "alpha": 0.1}, lambda p: logistic(0.2 * p.h + 0.1 * (p.nw - p.nl))),
    DpoShift: ({"beta": 0.2, "rejected_share": 0.6}, lambda p: logistic(0.2 * (p.c - 0.6 * p.r))),
    Nca: (
        {"beta": 0.2},
        lambda p: logistic(0.2 * p.c) + 0.5 * logistic(-0.2 * p.c) + 0.5 * logistic(-0.2 * p.r),
    ),
    Bco: ({"beta": 0.2, "running_mean": False}, lambda p: logistic(0.2 * p.c) + logistic(-0.2 * p.r)),
    Sppo: ({"beta": 0.05}, lambda p: calibration(p, 0.05)),
    CalDpo: ({"beta": 0.05, "calibration_weight": 0.7}, lambda p: logistic(p.h) + 0.7 * calibration(p, 0.05)),
    ApoZero: ({"beta": 0.2}, lambda p: -sigmoid(0.2 * p.c) + sigmoid(0.2 * p.r)),
    ApoDown: ({"beta": 0.2}, lambda p: sigmoid(0.2 * p.c) - sigmoid(0.2 * p.h)),
    DiscoPop: (
        {"beta": 0.2, "tau": 0.5},
        lambda p: (1 - sigmoid(0.4 * p.h)) * logistic(0.2 * p.h) + sigmoid(0.4 * p.h) * exp(-0.2 * p.h),
    ),
    Simpo: ({"beta": 2, "gamma": 0.3}, lambda p: logistic(2 * (p.lw / p.nw - p.ll / p.nl) - 0.3)),
    AlphaPo: (
        {"beta": 2, "gamma": 0.3, "alpha": 0.5},
        lambda p: logistic(2 * (1 - p.pw**-0.5) / 0.5 - 2 * (1 - p.pl**-0.5) / 0.5 - 0.3),
    ),
    Simper: ({}, lambda p: -p.pw + p.pl),
    Cpo: ({"beta": 0.2, "weight": 0.5}, lambda p: logistic(0.2 * (p.lw - p.ll)) - 0.5 * p.lw),
    Orpo: (
        {"weight": 0.5},
        lambda p: -p.lw / p.nw + 0.5 * logistic(log(p.pw / (1 - p.pw)) - log(p.pl / (1 - p.pl))),
    ),
    Slic: ({"delta": 2, "weight": 0.3}, lambda p: maximum(ZERO, 2 - p.lw + p.ll) - 0.3 * p.lw),
    Sft: ({}, lambda p: -p.lw / p.nw),
}  # fmt: skip

#: Log-probs per token, which models have from nearly certain to hopeless.
means = st.floats(-6, -1 / 64, width=32)
lengths = st.integers(1, 60)


def test_every_loss_has_a_formula():
    assert set(FORMULAS) == set(LOSSES)


@pytest.mark.parametrize("kind", LOSSES, ids=lambda kind: kind.name)
@settings(max_examples=25, deadline=None)
@given(logps=st.tuples(means, means, means, means), nw=lengths, nl=lengths)
def test_value_and_gradients_are_those_of_the_formula(kind, logps, nw, nl):
    sums = [torch.tensor([mean * tokens]) for mean, tokens in zip(logps, (nw, nl, nw, nl), strict=True)]
    options, formula = FORMULAS[kind]
    lw, ll, rw, rl = (each.double()[0] for each in sums)
    # At the corner of a maximum either side's gradient is right.
    assume(abs(lw - rw) > 1e-3)
    assume(abs(2 - lw + ll) > 1e-3)
    assume(abs(1 - 0.2 * ((lw - rw) - (ll - rl))) > 1e-3)

    exact = [lw.requires_grad_(), ll.requires_grad_()]
    expected = formula(Pair(lw, ll, lw - rw, ll - rl, nw, nl))
    expected.backward()

    policy = [each.requires_grad_() for each in sums[:2]]
    tokens = torch.tensor([nw]), torch.tensor([nl])
    columns = {"margin": torch.tensor([MARGIN])}
    value = loss_of(kind, **options)(PairScores(*policy, *sums[2:], *tokens, columns=columns))
    value.sum().backward()

    torch.testing.assert_close(value[0].double(), expected.detach(), rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(policy, exact, strict=True):
        if theirs.grad is None:
            assert ours.grad is None
        else:
            torch.testing.assert_close(ours.grad[0].double(), theirs.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", LOSSES, ids=lambda kind: kind.name)
@settings(max_examples=10, deadline=None)
@given(chosen=means, rejected=means, nw=lengths, nl=lengths)
def test_the_first_loss_is_that_of_pairs_whose_policy_is_the_reference(kind, chosen, rejected, nw, nl):
    loss = loss_of(kind, **FORMULAS[kind][0])
    if loss.first_loss() is None:
        return
    lw, ll = torch.tensor([chosen * nw]), torch.tensor([rejected * nl])
    value = loss(PairScores(lw, ll, lw, ll, torch.tensor([nw]), torch.tensor([nl])))
    assert value.item() == pytest.approx(loss.first_loss(), rel=1e-6, abs=1e-6)
