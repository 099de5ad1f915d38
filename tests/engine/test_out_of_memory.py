"""A device that runs out of memory: the same steps in smaller micro-batches, to the last bit."""

import copy
import math

import pytest
import torch

from dpotrain.engine.memory.out_of_memory import in_parts
from dpotrain.engine.parallel.one_process import OneProcess
from dpotrain.evaluation.evaluation_set import EvaluationSet
from dpotrain_plugins.lora import Lora
from tests.engine.pairs import random_pairs
from tests.engine.test_packed_equals_unpacked import build
from tests.engine.test_trainer import SIZES, trainer_of


class _FailsBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, sums):
        return sums.clone()

    @staticmethod
    def backward(ctx, grad):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")


class SmallDevice(torch.nn.Module):
    """A scorer on a device that holds so many tokens at once."""

    def __init__(self, scorer, tokens: float, where: str, pairs: float = math.inf) -> None:
        super().__init__()
        self.scorer, self.tokens, self.pairs, self.where, self.failed = scorer, tokens, pairs, where, 0

    def forward(self, batch):
        if len(batch.input_ids) <= self.tokens and len(batch.lengths) <= self.pairs:
            return self.scorer(batch)
        self.failed += 1
        # Whatever was drawn and added up before the failure must not stay.
        sums = self.scorer(batch)
        if self.where == "forward" or not torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")
        return _FailsBackward.apply(sums)


def run(budget: int, device_tokens: float = math.inf, where: str = "forward", pairs: float = math.inf):
    """Take two epochs with LoRA and dropout; return the trainer, its losses and what it said."""
    data = random_pairs(SIZES)
    torch.manual_seed(5)
    policy = Lora(Lora.Options(rank=4, dropout=0.2)).attach(build("llama").train())
    trainer = trainer_of(policy, data, budget=budget, first_loss=None)
    said: list[str] = []
    trainer.note = said.append
    trainer.scorer = SmallDevice(trainer.scorer, device_tokens, where, pairs)
    torch.manual_seed(6)
    losses = [record.metrics["loss"] for record in trainer.steps()]
    return trainer, losses, said, [weight.clone() for weight in policy.parameters()]


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_step_is_done_again_in_smaller_micro_batches(where):
    small, losses, _, weights = run(1000, 50, where)
    budget = small.plan.tokens_per_microbatch
    assert budget <= 50
    _, expected_losses, nothing, expected_weights = run(budget)
    assert losses == expected_losses
    assert all(map(torch.equal, weights, expected_weights))
    assert nothing == []
    assert small.scorer.failed < 6, "the smaller budget stays for the steps to come"


def test_what_a_step_had_added_up_before_memory_ran_out_does_not_count():
    """The first micro-batch of several steps is a long pair by itself, and fits; the second has two."""
    small, losses, _, weights = run(50, pairs=1)
    assert small.scorer.failed
    _, expected_losses, _, expected_weights = run(1)
    assert losses == expected_losses
    assert all(map(torch.equal, weights, expected_weights))


def test_it_says_so_in_one_line_a_change():
    _, _, said, _ = run(1000, 50)
    assert 1 <= len(said) <= 2
    assert all("memory ran out in step" in line and "\n" not in line for line in said)


def test_a_single_pair_that_does_not_fit_is_an_error_and_changes_nothing():
    data = random_pairs(SIZES)
    model = build("llama")
    before = copy.deepcopy(model.state_dict())
    trainer = trainer_of(model, data, budget=1000)
    trainer.scorer = SmallDevice(trainer.scorer, 10, "backward")
    with pytest.raises(torch.OutOfMemoryError):
        list(trainer.steps())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())


def test_evaluation_splits_what_does_not_fit():
    data = random_pairs(SIZES)
    trainer = trainer_of(build("llama"), data, budget=1000)
    held_out = EvaluationSet(data, trainer.reference, trainer.plan.costs)

    def evaluate(scorer, advance) -> dict[str, float]:
        return held_out.evaluate(trainer.parallel, scorer, trainer.loss, 1000, advance=advance).metrics

    expected = evaluate(trainer.scorer, lambda count: None)
    small = SmallDevice(trainer.scorer, 50, "forward")
    seen: list[int] = []
    got = evaluate(small, seen.append)
    assert small.failed
    assert sum(seen) == len(data)
    for name in ("loss", "logps/chosen", "rewards/margins"):
        assert got[name] == pytest.approx(expected[name], abs=1e-5)


def test_parts_cover_every_pair_once_in_order():
    done: list[int] = []

    def score(pairs):
        if len(pairs) > 2:
            raise torch.OutOfMemoryError
        done.extend(pairs)

    def fails(pairs):
        raise torch.OutOfMemoryError

    in_parts(list(range(13)), score, OneProcess(torch.device("cpu")))
    assert done == list(range(13))
    with pytest.raises(torch.OutOfMemoryError):
        in_parts([1, 2], fails, OneProcess(torch.device("cpu")))
