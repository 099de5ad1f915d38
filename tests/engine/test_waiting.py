"""The gradients of a step ask the device nothing: the processor packs the next micro-batch while it computes one.

On the meta device, whose tensors have shapes and no numbers, so that whatever reads one is an error: a Python number, a
shape that depends on numbers, a copy to the host. What the device itself waits for, tests/gpu/waiting.py finds.
"""

from contextlib import nullcontext
from functools import partial

import pytest
import torch

from dpotrain.core.random_state import RandomState
from dpotrain.core.scores import PairScores
from dpotrain.data.batches.mixture import Mixture
from dpotrain.data.batches.plan import BatchPlan, Costs
from dpotrain.engine.layers.checkpointing import checkpoint_layers
from dpotrain.engine.parallel.one_process import OneProcess
from dpotrain.engine.reference.reference import LiveReference, PrecomputedReference
from dpotrain.engine.scoring.logprobs import LogitTransform
from dpotrain.engine.scoring.loss_check import check_gradients
from dpotrain.engine.scoring.objective import loss_parts, pair_losses, pair_rewards
from dpotrain.engine.scoring.router_loss import RouterLoss, Routing
from dpotrain.engine.scoring.scorer import PackedScorer, PaddedScorer
from dpotrain.engine.scoring.statistics import STATISTICS
from dpotrain.engine.training.trainer import Trainer
from dpotrain.plugin.api import Loss
from dpotrain_plugins.lora import Lora
from dpotrain_plugins.losses import COUPLED, Bco, Dpo, Sft
from dpotrain_plugins.losses import LOSSES as ALL_LOSSES
from dpotrain_plugins.losses.running import RunningLoss
from dpotrain_plugins.schedules import Constant
from tests.engine.pairs import random_pairs
from tests.support import tiny_model

META = torch.device("meta")
DATA = random_pairs([(5, 9, 3), (2, 1, 17), (11, 4, 4), (1, 2, 2), (7, 7, 30), (3, 20, 6)])


class OfTokens(Loss):
    """Couples pairs, and asks for the log-prob of every token."""

    name = "of-tokens"
    couples_pairs = True
    needs_token_log_probs = True

    def __call__(self, scores):
        return scores.policy_rejected - scores.policy_chosen - scores.policy_tokens.mean()


@pytest.fixture
def uncast(monkeypatch):
    """There is no autocast on the meta device, not even one that is off."""
    autocast, enabled = torch.autocast, torch.is_autocast_enabled
    monkeypatch.setattr(
        torch, "autocast", lambda kind, *a, **k: nullcontext() if kind == "meta" else autocast(kind, *a, **k)
    )
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *kind: kind != (META.type,) and enabled(*kind))


def gradients(model, loss=Dpo, *, live=None, packed=True, balanced=False):
    """Compute those of a step of four pairs in two micro-batches or more, but not of the first, which is looked at."""
    model = model.to(META)
    scorer = (PackedScorer if packed else PaddedScorer)(model, LogitTransform(), False)
    trainer = Trainer(
        parallel=OneProcess(META),
        scorer=scorer,
        optimizer=torch.optim.SGD(model.parameters()),
        loss=loss(loss.Options()),
        plan=BatchPlan(Mixture.single(6), Costs.of_data(DATA, padded=not packed), 0, 4, 40, epochs=1),
        data=DATA,
        reference=PrecomputedReference(torch.zeros(6, 2)) if live is None else live(scorer),
        schedule=Constant(Constant.Options()),
        peak_learning_rate=1.0,
        max_grad_norm=1.0,
        first_loss=None,
        router_loss=RouterLoss(Routing.of(model, 0.5), scorer) if balanced else None,
    )
    trainer._looked_at_loss = True
    step = next(iter(trainer.plan.steps()))
    assert len(step.microbatches[0]) > 1
    sums = trainer._gradients(step, RandomState.capture())
    if isinstance(trainer.loss, RunningLoss):  # which has no numbers before the first step
        trainer.loss.load_state_dict({"running": [1.0, 2.0]})
        sums = trainer._gradients(step, RandomState.capture())
        trainer.loss.dpotrain_step_ended()
    assert sums.device == META
    assert any(weight.grad is not None for weight in model.parameters())


@pytest.mark.parametrize("loss", [Dpo, Bco, OfTokens], ids=lambda loss: loss.name)
def test_all_weights(loss, uncast):
    gradients(tiny_model("llama"), loss)


@pytest.mark.parametrize("loss", [*ALL_LOSSES, *COUPLED], ids=lambda loss: loss.name)
def test_no_built_in_loss_reads_scores(loss):
    options = {"per": "token"} if loss is Sft else {}
    for weighting in (None, "wpo"):
        made = loss(loss.Options(weighting=weighting, **options))
        columns = {"label_probability", "weight", *["margin"][: loss.of_difference]}
        losses = pair_losses(made, scores_of(8), columns)
        check_gradients(made, losses)
        assert losses.shape == pair_rewards(made, scores_of(8))[0].shape == (8,)
        loss_parts(made, scores_of(8))


def scores_of(pairs):
    """Scores with all that a loss may ask for."""

    def some(*more, dtype=torch.float32):
        return torch.empty(pairs, *more, dtype=dtype, device=META)

    return PairScores(
        policy_chosen=some().requires_grad_(),
        policy_rejected=some().requires_grad_(),
        reference_chosen=some(),
        reference_rejected=some(),
        chosen_tokens=some(dtype=torch.int64),
        rejected_tokens=some(dtype=torch.int64),
        statistics={name: some(2) for name in STATISTICS},
        columns={name: some() for name in ("margin", "label_probability", "weight")},
        step=3,
        total_steps=9,
    )


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_lora_with_a_live_reference(dropout, uncast):
    adapter = Lora(Lora.Options(rank=2, dropout=dropout))
    model = adapter.attach(tiny_model("llama").train())
    gradients(model, live=lambda scorer: LiveReference(scorer, partial(adapter.reference, model)))


def test_checkpointed_layers(uncast):
    model = tiny_model("llama").train()
    checkpoint_layers(model, 2)
    gradients(model)


def test_padded_rows(uncast):
    model = tiny_model("llama")
    model.set_attn_implementation("eager")  # for others transformers looks whether anything is padded
    gradients(model, packed=False)


def test_the_router_loss(uncast):
    model = tiny_model("qwen3_moe").bfloat16()  # on the meta device experts are computed in bfloat16 alone
    gradients(model, balanced=True)
