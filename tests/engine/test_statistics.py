"""Entropy, likeliest token and squared probabilities against the softmax of whole logits, whichever the head."""

import math

import pytest
import torch
from torch import nn

from dpotrain.data.batches.packing import pack
from dpotrain.engine.scoring import logprobs
from dpotrain.engine.scoring.logprobs import LogitTransform, token_log_probs
from dpotrain.engine.scoring.pairs import needed_statistics, score_pairs
from dpotrain.engine.scoring.probe import choose_scorer
from dpotrain.engine.scoring.scorer import tail_weights
from dpotrain.engine.scoring.statistics import STATISTICS
from dpotrain.plugin.api import Metric
from dpotrain_plugins.losses import Dpo
from tests.engine.pairs import random_pairs
from tests.engine.test_packed_equals_unpacked import build
from tests.engine.test_trainer import SIZES, trainer_of

HIDDEN, WORDS, ROWS = 8, 1000, 12


class Wrapped(nn.Module):
    """A head that is no plain linear layer."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.out_features = inner, inner.out_features

    def forward(self, rows):
        return self.inner(rows)


def plain(hidden, head, targets, transform):
    log_p = transform(head(hidden)).double().log_softmax(1)
    return torch.stack(
        [
            log_p.gather(1, targets[:, None])[:, 0],
            log_p.amax(1),
            (2 * log_p).logsumexp(1),
            -(log_p.exp() * log_p).sum(1),
        ],
        1,
    )


@pytest.mark.parametrize("kind", ["frozen", "trained", "any"])
@pytest.mark.parametrize("transform", [LogitTransform(), LogitTransform(0.5, 3.0)])
def test_they_are_those_of_the_softmax(kind, transform, monkeypatch):
    monkeypatch.setitem(logprobs.TILE_LOGITS, "cpu", 1)  # several tiles of the narrowest kind
    draw = torch.Generator().manual_seed(0)
    hidden = (3 * torch.randn(ROWS, HIDDEN, generator=draw)).requires_grad_()
    targets = torch.randint(0, WORDS, (ROWS,), generator=draw)
    head = nn.Linear(HIDDEN, WORDS, bias=False)
    head.requires_grad_(kind == "trained")
    if kind == "any":
        head = Wrapped(head)
    expected = plain(hidden.detach(), head, targets, transform)
    got = token_log_probs(hidden, head, targets, transform, STATISTICS)
    torch.testing.assert_close(got.detach().double(), expected, rtol=0, atol=2e-5)
    assert torch.equal(token_log_probs(hidden, head, targets, transform), got[:, 0])
    got[:, 0].sum().backward()
    alone = hidden.grad.clone()
    hidden.grad = None
    token_log_probs(hidden, head, targets, transform).sum().backward()
    assert torch.equal(hidden.grad, alone)


def test_rows_far_apart_stay_finite():
    head = nn.Linear(1, 2 * logprobs.NARROWEST_TILE, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.linspace(-1, 1, len(head.weight))[:, None])
    got = token_log_probs(
        torch.tensor([[1e5], [-1e5], [0.0]]), head, torch.zeros(3).long(), LogitTransform(), STATISTICS
    )
    assert got[:, 1:].isfinite().all()
    assert got[2, 3].item() == pytest.approx(math.log(2 * logprobs.NARROWEST_TILE), abs=1e-4)
    assert got[0, 1:].tolist() == pytest.approx([0, 0, 0], abs=1e-3)


class Surprise(Metric):
    """The mean entropy of chosen answers."""

    name = "surprise"
    measures = ("chosen",)
    needs_statistics = ("entropy",)

    def __call__(self, scores):
        return {"chosen": scores.statistics["entropy"][:, 0]}


@pytest.mark.parametrize("packing", ["on", "off"])
def test_scores_have_the_means_of_each_completion(packing):
    data = random_pairs(SIZES)
    model = build("llama")
    batch = pack(data, [4, 0])
    scorer = choose_scorer(model, batch, packing=packing, bf16=False).scorer
    dpo, metric = Dpo(Dpo.Options(weighting="wpo")), Surprise(Surprise.Options())
    names = needed_statistics(dpo, [metric])
    assert names == ("log_squares", "entropy")
    scores = score_pairs(scorer, torch.zeros(2, 2), batch, statistics=names)
    assert scores.policy_tokens is None
    ids = torch.tensor([[*data[0].prompt.tolist(), *data[0].rejected.tolist()]])
    log_p = model(ids).logits[0, len(data[0].prompt) - 1 : -1].log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1).mean()
    assert scores.statistics["entropy"][1, 1].item() == pytest.approx(entropy.item(), abs=1e-4)
    squares = (2 * log_p).logsumexp(-1).mean()
    assert scores.statistics["log_squares"][1, 1].item() == pytest.approx(squares.item(), abs=1e-4)


@pytest.mark.parametrize("weighting", ["wpo", "wpo-greedy"])
def test_a_pair_weighs_what_its_answers_are_likely(weighting):
    """exp of the mean of log p(token) less the statistic, over both answers, times the loss; without gradients."""
    data, model = random_pairs(SIZES), build("llama")
    batch = pack(data, [0, 2])
    scorer = choose_scorer(model, batch, packing="on", bf16=False).scorer
    weighted, dpo = Dpo(Dpo.Options(weighting=weighting)), Dpo(Dpo.Options())
    scores = score_pairs(scorer, torch.zeros(2, 2), batch, statistics=needed_statistics(weighted, []))
    (own,) = scores.statistics.values()
    weights = [
        math.exp(
            scores.policy_chosen[pair].item() / data[index].chosen.size - own[pair, 0].item()
            + scores.policy_rejected[pair].item() / data[index].rejected.size - own[pair, 1].item()
        )
        for pair, index in enumerate([0, 2])
    ]  # fmt: skip
    losses, plain_losses = weighted.losses(scores), dpo.losses(scores)
    assert losses.tolist() == pytest.approx(
        [w * one for w, one in zip(weights, plain_losses.tolist(), strict=True)]
    )
    gradients = [
        torch.autograd.grad(each.sum(), scores.policy_chosen, retain_graph=True)[0]
        for each in (losses, plain_losses)
    ]
    torch.testing.assert_close(gradients[0], gradients[1] * torch.tensor(weights))


@pytest.mark.parametrize("budget", [20, 1000])
def test_weighted_steps_are_the_same_however_they_are_cut(budget):
    def losses(tokens):
        trainer = trainer_of(
            build("llama"),
            random_pairs(SIZES),
            budget=tokens,
            first_loss=None,
            loss=Dpo(Dpo.Options(weighting="wpo")),
        )
        return [record.metrics["loss"] for record in trainer.steps()]

    assert losses(budget) == pytest.approx(losses(60), abs=1e-5)


def test_tokens_beyond_the_shorter_answer_count_less():
    counts = torch.tensor([[3, 1], [2, 2], [1, 4]])
    weights = tail_weights(counts, 13, 0.25)
    assert weights.tolist() == [1, 0.25, 0.25, 1, 1, 1, 1, 1, 1, 1, 0.25, 0.25, 0.25]


@pytest.mark.parametrize("packing", ["on", "off"])
def test_a_scorer_discounts_them_in_its_sums_and_not_in_the_tokens(packing):
    data = random_pairs(SIZES)
    batch = pack(data, range(len(data)))
    scorer = choose_scorer(build("llama"), batch, packing=packing, bf16=False).scorer
    sums, each = scorer(batch, tokens=True)
    scorer.tail_weight = 0.25
    discounted, same = scorer(batch, tokens=True)
    assert torch.equal(each, same)
    chosen = each[: len(data[0].chosen)]
    short = len(data[0].rejected)
    torch.testing.assert_close(discounted[0, 0], chosen[:short].sum() + 0.25 * chosen[short:].sum())
    torch.testing.assert_close(discounted[0, 1], sums[0, 1])
