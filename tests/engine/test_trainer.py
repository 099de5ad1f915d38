"""The training step against DPO written down plainly: full logits, a frozen copy, one batch."""

import copy
import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dpotrain.core.errors import PluginError, RunError
from dpotrain.data.batches.mixture import Mixture
from dpotrain.data.batches.packing import pack
from dpotrain.data.batches.plan import BatchPlan, Costs
from dpotrain.engine.parallel.one_process import OneProcess
from dpotrain.engine.reference.reference import PrecomputedReference
from dpotrain.engine.scoring.probe import choose_scorer
from dpotrain.engine.training.first_loss import FirstLoss
from dpotrain.engine.training.optimizer import build_optimizer
from dpotrain.engine.training.trainer import Trainer
from dpotrain.engine.training.unfinished import Interrupted
from dpotrain.evaluation.evaluation_set import EvaluationSet
from dpotrain.plugin.api import Loss, Schedule
from dpotrain_plugins.optimizers import AdamW
from dpotrain_plugins.schedules import Constant, Linear
from tests.engine.pairs import random_pairs
from tests.engine.test_packed_equals_unpacked import build, own_log_prob_sums

SIZES = [(5, 9, 3), (2, 1, 17), (11, 4, 4), (1, 2, 2), (7, 7, 30), (3, 20, 6), (9, 2, 5)]
BETA, RATE = 0.5, 3e-3


class Sigmoid(Loss):
    name = "sigmoid"

    def __call__(self, scores):
        return -F.logsigmoid(self.options.beta * (scores.chosen_logratio - scores.rejected_logratio))


def trainer_of(model, data, **settings) -> Trainer:
    packing = settings.pop("packing", "on")
    scorer = choose_scorer(model, pack(data, range(len(data))), packing=packing, bf16=False).scorer
    with torch.no_grad():
        sums = torch.cat([scorer(pack(data, [index])) for index in range(len(data))])
    mixture = settings.pop("mixture", Mixture.single(len(data)))
    budget = settings.pop("budget", 40)
    plan = BatchPlan(mixture, Costs.of_data(data, padded=False), 0, 3, budget, epochs=3)
    adamw = AdamW(AdamW.Options(lr=RATE, weight_decay=0.1))
    return Trainer(
        parallel=OneProcess(torch.device("cpu")),
        scorer=scorer,
        optimizer=build_optimizer(adamw, model),
        loss=settings.pop("loss", None) or Sigmoid(Sigmoid.Options(beta=BETA)),
        plan=plan,
        data=data,
        reference=PrecomputedReference(settings.pop("reference", sums)),
        schedule=Constant(Constant.Options()),
        peak_learning_rate=RATE,
        max_grad_norm=1.0,
        first_loss=settings.pop("first_loss", FirstLoss(math.log(2), "fp32", alike=False)),
        **settings,
    )


def plain_dpo(model, data, plan) -> list[float]:
    """Rafailov et al. (arXiv:2305.18290), equation 7, with gradients clipped to 1 and AdamW."""
    reference = own_log_prob_sums(copy.deepcopy(model), data).detach()
    matrices = [weight for weight in model.parameters() if weight.ndim >= 2]
    vectors = [weight for weight in model.parameters() if weight.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors}], RATE, weight_decay=0
    )
    losses = []
    for step in plan.steps():
        ratios = own_log_prob_sums(model, data)[step.pairs] - reference[step.pairs]
        loss = -F.logsigmoid(BETA * (ratios[:, 0] - ratios[:, 1])).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_every_step_is_plain_dpo(kind):
    data = random_pairs(SIZES)
    model = build(kind, initializer_range=0.1)
    trainer = trainer_of(copy.deepcopy(model), data)
    got = [record.metrics["loss"] for record in trainer.steps()]
    assert got == pytest.approx(plain_dpo(model, data, trainer.plan), abs=2e-5)
    assert got[0] == pytest.approx(math.log(2), abs=1e-6)
    assert got[-1] < 0.6


def test_a_record_tells_the_step():
    data = random_pairs(SIZES)
    trainer = trainer_of(build("llama"), data)
    records = list(trainer.steps())
    assert [record.step for record in records] == list(range(1, 10))
    assert [record.pairs for record in records] == [3, 3, 1] * 3
    assert records[2].epoch == 1.0
    assert sum(record.tokens for record in records) == 3 * int(np.sum(data.lengths))
    assert {"loss", "grad_norm", "learning_rate", "rewards/accuracies", "logps/chosen"} <= records[
        0
    ].metrics.keys()


def test_a_generator_that_is_left_can_be_taken_up_again():
    data = random_pairs(SIZES)
    whole = [record.metrics["loss"] for record in trainer_of(build("llama"), data).steps()]
    trainer = trainer_of(build("llama"), data)
    first = [record.metrics["loss"] for record, _ in zip(trainer.steps(), range(4), strict=False)]
    rest = [record.metrics["loss"] for record in trainer.steps(after=4)]
    assert (first + rest)[:4] == whole[:4]


def test_a_reference_that_is_not_the_initial_policy_stops_the_run_before_the_first_update():
    """TRAPS: packing that miscounts boundaries: the first loss six times ln 2, and the run went on."""
    data = random_pairs(SIZES)
    model = build("llama")
    before = copy.deepcopy(model.state_dict())
    wrong = torch.zeros(len(data), 2)
    with pytest.raises(
        RunError,
        match=r"the first loss is .* must be 0\.693147, and rounding explains .*; nothing was updated",
    ) as caught:
        next(trainer_of(model, data, reference=wrong, loss_label='loss "own" of plugin "mine"').steps())
    assert 'or a wrong first_loss of loss "own" of plugin "mine".' in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_an_interrupted_step_changes_nothing():
    data = random_pairs(SIZES)
    model = build("llama")
    before = copy.deepcopy(model.state_dict())
    trainer = trainer_of(model, data, interrupted=lambda: True)
    with pytest.raises(Interrupted):
        next(trainer.steps())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())


def test_evaluation_covers_every_pair_once_without_dropout():
    data = random_pairs(SIZES)
    model = build("llama")
    trainer = trainer_of(model, data)
    reference = own_log_prob_sums(model, data).detach()
    moved = build("llama", initializer_range=0.15)
    model.load_state_dict(moved.state_dict())
    seen = []
    held_out = EvaluationSet(data, trainer.reference, trainer.plan.costs)
    scored = held_out.evaluate(trainer.parallel, trainer.scorer, trainer.loss, 40, advance=seen.append)
    got = scored.metrics
    ratios = own_log_prob_sums(model, data).detach() - reference
    margins = BETA * (ratios[:, 0] - ratios[:, 1])
    assert sum(seen) == len(data)
    assert got["loss"] == pytest.approx(-F.logsigmoid(margins).mean().item(), abs=1e-4)
    assert got["rewards/margins"] == pytest.approx(margins.mean().item(), abs=1e-3)
    assert got["rewards/accuracies"] == pytest.approx((margins > 0).float().mean().item())
    of_pairs = torch.from_numpy(scored.rewards)
    assert (of_pairs[:, 0] - of_pairs[:, 1]).tolist() == pytest.approx(margins.tolist(), abs=1e-3)


@pytest.mark.parametrize(
    "wrong", [lambda losses: losses.mean(), lambda losses: losses[:, None], lambda losses: 0.5]
)
def test_a_loss_of_the_wrong_shape_is_named(wrong):
    class Wrong(Sigmoid):
        name = "wrong"

        def __call__(self, scores):
            return wrong(super().__call__(scores))

    trainer = trainer_of(build("llama"), random_pairs(SIZES))
    trainer.loss = Wrong(Wrong.Options(beta=BETA))
    with pytest.raises(PluginError, match=r"__call__ returned .* must return one number a pair"):
        next(trainer.steps())


def test_groups_keep_their_own_rates_under_the_schedule():
    """LoRA+ gives some weights a higher rate than others."""
    trainer = trainer_of(build("llama"), random_pairs(SIZES))
    first, *rest = trainer.optimizer.param_groups
    first["lr"] = 4 * RATE
    trainer = dataclasses.replace(trainer, schedule=Linear(Linear.Options()))
    records = list(itertools.islice(trainer.steps(), 4))
    factor = 1 - 3 / trainer.plan.total_steps
    assert first["lr"] == pytest.approx(4 * RATE * factor)
    assert [group["lr"] for group in rest] == pytest.approx([RATE * factor] * len(rest))
    assert records[-1].metrics["learning_rate"] == pytest.approx(RATE * factor)


@pytest.mark.parametrize("factor", [-0.1, math.nan, math.inf, None])
def test_a_schedule_that_says_what_no_rate_can_be_is_named(factor):
    class Wrong(Schedule):
        name = "wrong"

        def factor(self, step, total_steps):
            return factor

    trainer = trainer_of(build("llama"), random_pairs(SIZES))
    trainer.schedule = Wrong(Wrong.Options())
    with pytest.raises(PluginError, match=r"factor returned .*; it must return a finite number that is not"):
        next(trainer.steps())
