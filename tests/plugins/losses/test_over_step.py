"""Losses over all pairs of a step: by hand, and against float64."""

import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpotrain.core.scores import PairScores
from dpotrain_plugins.losses import Aot, AotUnpaired, Bco, BetaDpo, Sft
from dpotrain_plugins.losses.over_step import SMALLEST_BETA


def of(kind, **options):
    return kind(kind.Options(**options))


def scores_of(policy, reference=None, tokens=None, step=1):
    """Scores of pairs (chosen, rejected) under the policy and the reference, both zero unless given."""
    policy = torch.tensor(policy, dtype=torch.float32)
    reference = torch.zeros_like(policy) if reference is None else torch.tensor(reference)
    counts = torch.ones_like(policy).long() if tokens is None else torch.tensor(tokens)
    return PairScores(
        policy[:, 0].requires_grad_(), policy[:, 1].requires_grad_(), *reference.unbind(1), *counts.unbind(1),
        step=step, total_steps=10,
    )  # fmt: skip


def test_aot_by_hand():
    """Policy margins 3, 1 and reference margins 2, 5: sorted 1 against 2, 3 against 5; at beta 0.5 -0.5 and -1."""
    value = of(Aot, beta=0.5).losses(scores_of([[3.0, 0.0], [1.0, 0.0]], [[2.0, 0.0], [5.0, 0.0]]))
    assert value.tolist() == pytest.approx([math.log1p(math.exp(1)), math.log1p(math.exp(0.5))], abs=1e-6)
    smoothed = of(Aot, beta=0.5, label_smoothing=0.1).losses(
        scores_of([[3.0, 0.0], [1.0, 0.0]], [[2.0, 0.0], [5.0, 0.0]])
    )
    assert smoothed[0].item() == pytest.approx(
        0.9 * math.log1p(math.exp(1)) + 0.1 * math.log1p(math.exp(-1)), abs=1e-6
    )


def test_aot_unpaired_by_hand():
    """Chosen log-ratios 2, -1 and rejected 0, 1: sorted -1 against 0, 2 against 1; the pairs do not matter."""
    here = of(AotUnpaired, beta=1.0).losses(scores_of([[2.0, 0.0], [-1.0, 1.0]]))
    assert here.tolist() == pytest.approx([math.log1p(math.exp(-1)), math.log1p(math.exp(1))], abs=1e-6)
    other = of(AotUnpaired, beta=1.0).losses(scores_of([[2.0, 1.0], [-1.0, 0.0]]))
    assert other.sum().item() == pytest.approx(here.sum().item(), abs=1e-6)


numbers = st.lists(st.tuples(*[st.floats(-30, 30, width=32)] * 4), min_size=1, max_size=12)


@pytest.mark.parametrize("kind", [Aot, AotUnpaired])
@settings(max_examples=60, deadline=None)
@given(pairs=numbers, beta=st.floats(0.05, 1))
def test_aot_in_float64(kind, pairs, beta):
    made = scores_of([pair[:2] for pair in pairs], [pair[2:] for pair in pairs])
    values = torch.tensor(pairs, dtype=torch.float64).requires_grad_()
    lw, ll, rw, rl = values.unbind(1)
    first, second = (lw - ll, rw - rl) if kind is Aot else (lw - rw, ll - rl)
    expected = -torch.nn.functional.logsigmoid(beta * (first.sort()[0] - second.sort()[0])).mean()
    got = of(kind, beta=beta).losses(made).mean()
    assert got.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)
    if len({round(number, 3) for number in (*first.tolist(), *second.tolist())}) == 2 * len(pairs):
        (gradient,) = torch.autograd.grad(expected, values)
        got.backward()
        torch.testing.assert_close(made.policy_chosen.grad.double(), gradient[:, 0], rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(made.policy_rejected.grad.double(), gradient[:, 1], rtol=1e-3, atol=1e-5)


def test_beta_follows_the_step_s_margins_by_hand():
    """All pairs kept. Step 1: margins 1, 3, the averages begin with their mean 2, so beta stays. Step 2: margins 6, 6;
    the average is 0.9 * 2 + 0.1 * 6 = 2.4, and beta 0.1 (1 + 0.5 (6 - 2.4)) = 0.28."""
    loss = of(BetaDpo, beta=0.1, alpha=0.5, keep=1.0)
    first = loss.losses(scores_of([[1.0, 0.0], [3.0, 0.0]]))
    assert first.tolist() == pytest.approx([math.log1p(math.exp(-0.1)), math.log1p(math.exp(-0.3))], abs=1e-6)
    again = loss.losses(scores_of([[1.0, 0.0], [3.0, 0.0]]))
    assert torch.equal(again, first)  # a step that is computed twice, where memory ran out, counts once
    loss.dpotrain_step_ended()
    second = loss.losses(scores_of([[6.0, 0.0], [6.0, 0.0]], step=2))
    assert second.tolist() == pytest.approx([math.log1p(math.exp(-0.28 * 6))] * 2, abs=1e-6)


def test_beta_is_kept_above_its_least_and_an_evaluation_has_the_recipe_s():
    loss = of(BetaDpo, beta=0.1, alpha=0.9, keep=1.0)
    loss.losses(scores_of([[60.0, 0.0]] * 2))
    loss.dpotrain_step_ended()
    low = loss.losses(scores_of([[0.0, 0.0], [2.0, 0.0]], step=2))
    assert low[1].item() == pytest.approx(math.log1p(math.exp(-SMALLEST_BETA * 2)), abs=1e-6)
    alone = scores_of([[1.0, 0.0]])
    with torch.no_grad():
        evaluated = replace(
            alone, policy_chosen=alone.policy_chosen.detach(), policy_rejected=alone.policy_rejected.detach()
        )
        assert loss.losses(evaluated).item() == pytest.approx(math.log1p(math.exp(-0.1)), abs=1e-6)


def test_outliers_are_left_out_and_the_others_weigh_more():
    loss = of(BetaDpo, beta=0.1, alpha=0.0, keep=0.75)
    made = [[0.1 * number, 0.0] for number in range(7)] + [[1000.0, 0.0]]
    values = loss.losses(scores_of(made))
    assert (values > 0).sum().item() <= 6
    counted = values[values > 0]
    assert values.mean().item() == pytest.approx(counted.sum().item() / 8)
    fewer = {step: tuple((loss.losses(scores_of(made, step=step)) > 0).tolist()) for step in (1, 2, 3, 4)}
    assert len(set(fewer.values())) > 1  # every step draws its own
    assert fewer[1] == tuple((values > 0).tolist())


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_pairs_are_drawn_as_by_multinomial(keep):
    """Which would wait for the device, to look at the weights."""
    loss = of(BetaDpo, alpha=0.0, keep=keep)
    margins = torch.linspace(-2, 3, 12)
    apart = (margins.double() - margins.double().mean()) / margins.double().std(correction=0)
    for step in (1, 2, 3):
        drawn = torch.multinomial(
            (-0.5 * apart.square()).exp(), int(12 * keep), generator=torch.Generator().manual_seed(step)
        )
        losses = loss.losses(scores_of(torch.stack([margins, 0 * margins], 1).tolist(), step=step))
        assert losses.nonzero().flatten().tolist() == drawn.sort().values.tolist()


def test_a_checkpoint_has_plain_numbers():
    """Those of step 1: rewards 2 and 1 of one pair; margins 1 and 2, whose mean is 1.5."""
    for loss, made, kept in (
        (of(Bco, beta=1.0), [[2.0, 1.0]], [3.0, 2]),
        (of(BetaDpo), [[1.0, 0.0], [2.0, 0.0]], [1.5, 0.5]),
    ):
        assert loss.state_dict() == {}
        loss.losses(scores_of([[math.inf, 0.0]]))
        loss.dpotrain_step_ended()
        assert loss.state_dict() == {}  # of a step that was skipped
        loss.losses(scores_of(made))
        loss.dpotrain_step_ended()
        assert json.dumps(loss.state_dict()) == json.dumps({"running": kept})
        loss.load_state_dict(json.loads(json.dumps(loss.state_dict())))
        assert loss.state_dict() == {"running": kept}


def test_bco_takes_off_the_running_mean_of_the_rewards_by_hand():
    """Rewards 1, -1 and 3, 1: their mean is 1. Then 5, 3, with all six (4 + 8) / 6 = 2."""
    loss = of(Bco, beta=1.0, running_mean=True)

    def expected(rewards, mean):
        return [math.log1p(math.exp(-(c - mean))) + math.log1p(math.exp(r - mean)) for c, r in rewards]

    first = [[1.0, -1.0], [3.0, 1.0]]
    assert loss.couples_pairs
    assert loss.losses(scores_of(first)).tolist() == pytest.approx(expected(first, 1), abs=1e-6)
    loss.dpotrain_step_ended()
    second = [[5.0, 3.0]]
    assert loss.losses(scores_of(second, step=2)).tolist() == pytest.approx(expected(second, 2), abs=1e-6)
    loss.dpotrain_step_ended()
    loss.losses(scores_of([[math.nan, 0.0]], step=3))
    loss.dpotrain_step_ended()  # of a step that was skipped
    other = of(Bco, beta=1.0, running_mean=True)
    other.load_state_dict(loss.state_dict())
    third = scores_of([[0.0, 0.0]], step=3)
    assert torch.equal(other.losses(third), loss.losses(third))
    assert not of(Bco, running_mean=False).couples_pairs


def test_sft_per_token_weighs_every_token_of_the_step_the_same_by_hand():
    """Sums -6 of 2 tokens and -6 of 4: per token 12 / 6 = 2; per answer (3 + 1.5) / 2 = 2.25."""
    made = scores_of([[-6.0, 0.0], [-6.0, 0.0]], tokens=[[2, 1], [4, 1]])
    assert of(Sft, per="token").losses(made).mean().item() == pytest.approx(2)
    assert of(Sft).losses(made).mean().item() == pytest.approx(2.25)
    assert of(Sft, per="token").couples_pairs
    assert not of(Sft).couples_pairs
