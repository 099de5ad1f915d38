"""A reference that follows the policy, against TR-DPO written down plainly with a deep copy."""

import copy
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from peft.tuners.lora.layer import Linear

from dpotrain.data.batches.packing import pack
from dpotrain.engine.layers.checkpointing import checkpoint_layers
from dpotrain.engine.reference.reference import LiveReference, MovingReference
from dpotrain.engine.reference.second_copy import SecondCopy
from dpotrain.evaluation.evaluation_set import EvaluationSet
from dpotrain.recipe.sections.reference import ReferenceUpdate
from dpotrain_plugins.lora import Lora
from tests.engine.pairs import random_pairs
from tests.engine.test_coupled import Whole
from tests.engine.test_packed_equals_unpacked import build, own_log_prob_sums
from tests.engine.test_trainer import BETA, RATE, SIZES, trainer_of

#: What is trained: all weights, or an adapter with these options.
TRAINED = {
    "full": None,
    "full, tied head": None,
    "lora": {"rank": 4},
    "lora with a whole head": {"rank": 4, "modules_to_save": ["lm_head"]},
    "dora": {"rank": 4, "dora": True},
}


def policy_of(trained: str):
    model = build("llama", initializer_range=0.1, tie_word_embeddings=trained == "full, tied head")
    options = TRAINED[trained]
    torch.manual_seed(1)
    return model if options is None else Lora(Lora.Options(**options)).attach(model)


def moving_trainer(policy, data, every: int, share: float, **settings):
    trainer = trainer_of(policy, data, **settings)
    trainer.reference = MovingReference(trainer.scorer, ReferenceUpdate(every=every, share=share))
    return trainer


def trained_weights(model) -> list[torch.Tensor]:
    return [weight for weight in model.parameters() if weight.requires_grad]


def plain_tr_dpo(policy, data, plan, every: int, share: float) -> list[float]:
    """Gorbatovski et al. (arXiv:2404.09656): DPO whose reference is mixed with the policy after every so many steps."""
    for module in policy.modules():
        if isinstance(module, Linear):
            module.__class__ = Linear  # peft's own forward
    reference, own = copy.deepcopy(policy), trained_weights(policy)
    decayed = [weight for weight in own if weight.ndim >= 2]
    rest = [weight for weight in own if weight.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": rest}], RATE, weight_decay=0
    )
    losses = []
    for step in plan.steps():
        with torch.no_grad():
            compared = own_log_prob_sums(reference, data)[step.pairs]
        ratios = own_log_prob_sums(policy, data)[step.pairs] - compared
        loss = -F.logsigmoid(BETA * (ratios[:, 0] - ratios[:, 1])).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(own, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step.step % every == 0:
            for old, new in zip(trained_weights(reference), own, strict=True):
                old.data = share * new.data + (1 - share) * old.data
    return losses


@pytest.mark.parametrize(
    ("trained", "every", "share", "budget"),
    [
        ("full", 2, 0.6, 40),
        ("full", 1, 0.1, 1000),
        ("full, tied head", 3, 1.0, 20),
        ("lora", 2, 0.6, 20),
        ("lora", 3, 1.0, 1000),
        ("lora with a whole head", 2, 0.6, 40),
        ("dora", 2, 1.0, 40),
    ],
)
def test_every_step_is_plain_tr_dpo(trained, every, share, budget):
    data, policy = random_pairs(SIZES), policy_of(trained)
    trainer = moving_trainer(copy.deepcopy(policy), data, every, share, budget=budget)
    checkpoint_layers(trainer.scorer.policy, 1)
    got = [record.metrics["loss"] for record in trainer.steps()]
    assert got == pytest.approx(plain_tr_dpo(policy, data, trainer.plan, every, share), abs=1e-5)
    # The reference is the policy before the first step, and after every update that replaces it.
    equal = [step for step, loss in enumerate(got) if abs(loss - math.log(2)) < 1e-6]
    assert equal == (list(range(0, len(got), every)) if share == 1 else [0])


def test_a_loss_that_couples_pairs_follows_the_same_reference():
    data, losses = random_pairs(SIZES), []
    for loss in (None, Whole(Whole.Options(beta=BETA))):
        trainer = moving_trainer(policy_of("lora"), data, 2, 0.6, loss=loss, first_loss=None)
        losses.append([record.metrics["loss"] for record in trainer.steps()])
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)


def test_an_evaluation_after_an_update_compares_with_the_reference_as_it_is_then():
    data = random_pairs(SIZES)
    trainer = moving_trainer(policy_of("full"), data, 2, 1.0)
    held_out, losses = EvaluationSet(data, trainer.reference, trainer.plan.costs), []
    for _ in itertools.islice(trainer.steps(), 4):
        scored = held_out.evaluate(
            trainer.parallel, trainer.scorer, trainer.loss, 40, advance=lambda count: None
        )
        losses.append(scored.metrics["loss"])
    assert [loss == pytest.approx(math.log(2), abs=1e-6) for loss in losses] == [False, True, False, True]


def test_a_skipped_step_counts_among_those_between_updates():
    data, faults = random_pairs(SIZES), []
    trainer = moving_trainer(policy_of("lora"), data, 2, 1.0, on_nonfinite=faults.append)
    steps = trainer.steps()
    next(steps)
    ordinary = trainer.loss
    trainer.loss = type(
        "Infinite", (type(ordinary),), {"__call__": lambda self, scores: ordinary(scores) / 0}
    )(ordinary.options)
    next(steps)
    trainer.loss = ordinary
    assert len(faults) == 1
    assert next(steps).metrics["loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_the_policy_is_itself_again_after_the_reference_computed_and_nothing_is_copied():
    policy = policy_of("full")
    own, weights = trained_weights(policy), SecondCopy(policy)
    own[0].grad = torch.ones_like(own[0])
    before = [weight.data_ptr() for weight in own]
    inside = []

    def compute():
        with weights.in_policy():
            inside.extend(weight.data_ptr() for weight in own)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        compute()
    assert [weight.data_ptr() for weight in own] == before
    assert not set(inside) & set(before)
    with weights.in_policy():
        assert [weight.data_ptr() for weight in own] == inside
    assert trained_weights(policy) == own
    assert own[0].grad is not None


def test_what_is_loaded_into_the_policy_inside_is_the_copys():
    """Also where it takes the place of a weight's numbers and is not copied into them, as an adapter may."""
    policy = policy_of("full")
    weights, (first, second, *_) = SecondCopy(policy), trained_weights(policy)
    kept = first.clone(), second.clone()
    with weights.in_policy(), torch.no_grad():
        first.zero_()
        second.data = torch.ones_like(second)
    assert torch.equal(first, kept[0])
    assert torch.equal(second, kept[1])
    with weights.in_policy():
        assert first.abs().max() == 0
        assert second.min() == 1


def test_a_live_reference_of_all_weights_stays_the_initial_policy():
    data, policy = random_pairs(SIZES), policy_of("full")
    initial = own_log_prob_sums(policy, data).detach()
    trainer = trainer_of(policy, data)
    live = trainer.reference = LiveReference(trainer.scorer, SecondCopy(policy).in_policy)
    stored = [record.metrics["loss"] for record in trainer_of(policy_of("full"), data).steps()]
    assert [record.metrics["loss"] for record in trainer.steps()] == pytest.approx(stored, abs=1e-6)
    torch.testing.assert_close(live.scores(pack(data, range(len(data)))), initial, rtol=0, atol=1e-4)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_weights_of_16_bits_are_mixed_in_float32_and_rounded_once(share):
    policy = torch.nn.Linear(64, 64).bfloat16()
    weights = SecondCopy(policy)
    old = policy.weight.detach().clone()
    with torch.no_grad():
        policy.weight.add_(torch.randn(64, 64).bfloat16() * 0.01)
    weights.mix_in(share)
    new = policy.weight.detach()
    mixed = (share * new.double() + (1 - share) * old.double()).float()
    with weights.in_policy():
        got = policy.weight.detach().clone()
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, mixed.bfloat16() if share < 1 else new)
