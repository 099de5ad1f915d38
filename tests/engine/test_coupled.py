"""Losses that couple pairs, against the same loss formed over a step in one piece, however the step is cut."""

import copy
import dataclasses
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dpotrain.core.errors import PluginError
from dpotrain.data.batches.mixture import Mixture
from dpotrain.data.batches.packing import pack
from dpotrain.engine.parallel.one_process import OneProcess
from dpotrain.engine.scoring.pairs import score_pairs
from dpotrain.engine.training.coupled import CoupledStep, GatheredScores
from dpotrain.engine.training.unfinished import Interrupted
from dpotrain.evaluation.evaluation_set import EvaluationSet
from dpotrain.plugin.api import Loss
from tests.engine.pairs import random_pairs
from tests.engine.test_packed_equals_unpacked import build, own_log_prob_sums
from tests.engine.test_trainer import BETA, RATE, SIZES, Sigmoid, trainer_of


class Sorted(Loss):
    """The k-th smallest chosen log-ratio of the step against the k-th smallest rejected one."""

    name = "sorted"
    couples_pairs = True

    def __call__(self, scores):
        chosen, rejected = scores.chosen_logratio.sort().values, scores.rejected_logratio.sort().values
        return -F.logsigmoid(self.options.beta * (chosen - rejected))


class PerToken(Loss):
    """The mean negative log-prob of the step's chosen tokens, from the tokens themselves."""

    name = "per-token"
    couples_pairs = True
    needs_token_log_probs = True

    def __call__(self, scores):
        counts = torch.stack([scores.chosen_tokens, scores.rejected_tokens], 1).flatten().tolist()
        chosen = torch.stack([each.sum() for each in torch.split(scores.policy_tokens, counts)[::2]])
        return -chosen * len(chosen) / scores.chosen_tokens.sum()


class Whole(Sigmoid):
    """DPO, which says that it couples pairs and does not."""

    name = "whole"
    couples_pairs = True


def plain(model, data, plan, loss_of):
    """Train with ``loss_of`` (chosen log-ratios, rejected ones, chosen sums, chosen counts) over whole steps."""
    reference = own_log_prob_sums(copy.deepcopy(model), data).detach()
    counts = torch.tensor([len(data[index].chosen) for index in range(len(data))])
    matrices = [weight for weight in model.parameters() if weight.ndim >= 2]
    vectors = [weight for weight in model.parameters() if weight.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors}], RATE, weight_decay=0
    )
    losses = []
    for step in plan.steps():
        sums = own_log_prob_sums(model, data)[step.pairs]
        ratios = sums - reference[step.pairs]
        loss = loss_of(ratios[:, 0], ratios[:, 1], sums[:, 0], counts[step.pairs])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


PLAIN = {
    Sorted: lambda chosen, rejected, *_: -F.logsigmoid(BETA * (chosen.sort()[0] - rejected.sort()[0])).mean(),
    PerToken: lambda chosen, rejected, sums, counts: -sums.sum() / counts.sum(),
}


#: Of a source that repeats, a pair may stand in a step more than once.
REPEATED = Mixture((len(SIZES),), (3 * len(SIZES) - 2,))


@pytest.mark.parametrize(
    ("budget", "mixture"),
    [(20, Mixture.single(len(SIZES))), (1000, Mixture.single(len(SIZES))), (40, REPEATED)],
)
@pytest.mark.parametrize("kind", PLAIN)
def test_every_step_is_the_loss_over_all_its_pairs_however_it_is_cut(kind, budget, mixture):
    data = random_pairs(SIZES)
    model = build("llama", initializer_range=0.1)
    loss = kind(kind.Options(beta=BETA))
    trainer = trainer_of(
        copy.deepcopy(model), data, loss=loss, budget=budget, mixture=mixture, first_loss=None
    )
    twice = any(len(set(step.pairs.tolist())) < len(step.pairs) for step in trainer.plan.steps())
    assert twice is (mixture is REPEATED)
    got = [record.metrics["loss"] for record in trainer.steps()]
    assert got == pytest.approx(plain(model, data, trainer.plan, PLAIN[kind]), abs=1e-5, rel=1e-5)
    assert got[-1] < got[0]


def test_the_second_pass_draws_the_dropout_of_the_first_and_is_counted_in_the_progress():
    """A loss of single pairs gives the same steps whether or not it says that it couples them."""
    losses, seen = [], []
    for kind in (Sigmoid, Whole):
        torch.manual_seed(0)
        data, model = random_pairs(SIZES), build("llama", initializer_range=0.1)
        model.model.layers[0].mlp.down_proj = nn.Sequential(
            model.model.layers[0].mlp.down_proj, nn.Dropout(0.3)
        )
        model.train()
        progress = seen.append if kind is Whole else lambda told: None
        trainer = trainer_of(
            model, data, loss=kind(kind.Options(beta=BETA)), first_loss=None,
            progress=lambda step, done, total, tell=progress: tell((step, done, total)),
        )  # fmt: skip
        torch.manual_seed(1)
        losses.append([record.metrics["loss"] for record in trainer.steps()])
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)
    first = [(done, total) for step, done, total in seen if step == 1]
    assert first == [(done, len(first)) for done in range(len(first))]
    assert len(first) == 2 * len(next(trainer.plan.steps()).microbatches[0])


def test_a_step_is_interrupted_between_the_micro_batches_of_its_first_pass():
    asked = itertools.count()
    trainer = trainer_of(
        build("llama"), random_pairs(SIZES), loss=Sorted(Sorted.Options()), budget=20, first_loss=None,
        interrupted=lambda: next(asked) == 0,
    )  # fmt: skip
    with pytest.raises(Interrupted):
        next(trainer.steps())
    assert next(asked) == 1


@pytest.mark.parametrize("kind", PLAIN)
def test_an_evaluation_forms_the_loss_over_all_held_out_pairs(kind):
    data, model = random_pairs(SIZES), build("llama")
    loss = kind(kind.Options(beta=BETA))
    trainer = trainer_of(model, data, loss=loss, first_loss=None)
    reference = own_log_prob_sums(model, data).detach()
    model.load_state_dict(build("llama", initializer_range=0.15).state_dict())
    held_out = EvaluationSet(data, trainer.reference, trainer.plan.costs)
    got = held_out.evaluate(trainer.parallel, trainer.scorer, loss, 40, advance=lambda count: None)
    sums = own_log_prob_sums(model, data).detach()
    ratios = sums - reference
    counts = torch.tensor([len(data[index].chosen) for index in range(len(data))])
    expected = PLAIN[kind](ratios[:, 0], ratios[:, 1], sums[:, 0], counts).item()
    assert got.metrics["loss"] == pytest.approx(expected, abs=1e-4)
    sources = [0, 1, 1, 0, 1, 1, 1]
    data = dataclasses.replace(data, stores=data.stores * 2, sources=np.array(sources, np.int16))
    held_out = EvaluationSet(data, trainer.reference, trainer.plan.costs, labels=("a", "b", "empty"))
    apart = held_out.evaluate(trainer.parallel, trainer.scorer, loss, 40, advance=lambda count: None).metrics
    for name in ("loss", "rewards/margins", "logps/chosen"):
        assert (2 * apart[f"a/{name}"] + 5 * apart[f"b/{name}"]) / 7 == pytest.approx(apart[name], abs=1e-6)
        assert apart[name] == pytest.approx(got.metrics[name], abs=1e-6)
    assert not [name for name in apart if name.startswith("empty/")]


def test_a_coupled_loss_without_gradients_is_named():
    class Detached(Sorted):
        name = "detached"

        def __call__(self, scores):
            return super().__call__(scores).detach()

    trainer = trainer_of(
        build("llama"), random_pairs(SIZES), loss=Detached(Detached.Options()), first_loss=None
    )
    with pytest.raises(PluginError, match="__call__ returned losses without gradients"):
        next(trainer.steps())


def test_scores_are_gathered_in_the_order_of_the_step():
    data = dataclasses.replace(random_pairs(SIZES), columns=("weight",))
    data = dataclasses.replace(data, numbers=torch.arange(7.0)[:, None].double().numpy())
    scorer = trainer_of(build("llama"), random_pairs(SIZES)).scorer
    order = torch.tensor([4, 0, 6, 2]).numpy()
    gathered = GatheredScores(order)
    for pairs in ([6, 4], [0], [], [2]):
        batch = pack(data, pairs)
        with torch.no_grad():
            gathered.add(batch, score_pairs(scorer, torch.ones(len(batch.lengths), 2), batch, tokens=True))
    whole = gathered.whole(OneProcess(torch.device("cpu")), columns=("weight",), step=3, total_steps=9)
    with torch.no_grad():
        alone = score_pairs(scorer, torch.ones(4, 2), pack(data, order.tolist()), tokens=True)
    for name in ("policy_chosen", "policy_rejected", "reference_chosen", "policy_tokens"):
        torch.testing.assert_close(getattr(whole, name), getattr(alone, name), rtol=0, atol=1e-5)
    assert whole.chosen_tokens.tolist() == alone.chosen_tokens.tolist()
    assert whole.columns["weight"].tolist() == [4, 0, 6, 2]
    assert (whole.step, whole.total_steps) == (3, 9)
    carried = CoupledStep.of(Whole(Whole.Options()), gathered, whole)
    filler = pack(data, [])
    total = carried.carried(filler, score_pairs(scorer, torch.zeros(1, 2), filler))
    assert (carried.of_batch(filler)[0].tolist(), total.item()) == ([0.0], 0.0)
