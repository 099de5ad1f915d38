"""Losses and metrics that ask for it are handed the log-prob of every scored token, with gradients."""

import pytest
import torch

from dpotrain.data.batches.packing import pack
from dpotrain.engine.scoring.pairs import need_tokens, score_pairs
from dpotrain.engine.scoring.probe import choose_scorer
from dpotrain.engine.training.recipe_metrics import RecipeMetrics
from dpotrain.plugin.api import Loss, Metric
from tests.engine.pairs import random_pairs
from tests.engine.test_packed_equals_unpacked import build
from tests.engine.test_trainer import SIZES, Sigmoid, trainer_of


class Tokenwise(Loss):
    """The negative mean log-prob of a chosen token."""

    name = "tokenwise"
    needs_token_log_probs = True
    needs_reference = False

    def __call__(self, scores):
        counts = torch.stack([scores.chosen_tokens, scores.rejected_tokens], 1).flatten().tolist()
        chosen = torch.split(scores.policy_tokens, counts)[::2]
        return -torch.stack([tokens.mean() for tokens in chosen])


class LowestToken(Metric):
    name = "lowest"
    measures = ("token",)
    needs_token_log_probs = True

    def __call__(self, scores):
        lowest = scores.policy_tokens.detach().min()
        return {"token": lowest.expand_as(scores.policy_chosen)}


@pytest.mark.parametrize("packing", ["on", "off"])
def test_tokens_add_up_to_the_completions_and_carry_gradients(packing):
    batch = pack(random_pairs(SIZES), range(len(SIZES)))
    model = build("llama")
    scorer = choose_scorer(model, batch, packing=packing, bf16=False).scorer
    scores = score_pairs(scorer, torch.zeros(len(SIZES), 2), batch, tokens=True)
    counts = batch.scored_tokens.flatten().tolist()
    sums = torch.stack([each.sum() for each in torch.split(scores.policy_tokens, counts)]).view(-1, 2)
    torch.testing.assert_close(sums[:, 0], scores.policy_chosen)
    torch.testing.assert_close(sums[:, 1], scores.policy_rejected)
    scores.policy_tokens[0].backward()
    assert any(weight.grad is not None and weight.grad.any() for weight in model.parameters())


def test_a_loss_over_tokens_trains_alike_however_steps_are_cut():
    def losses(budget: int) -> list[float]:
        loss = Tokenwise(Tokenwise.Options())
        trainer = trainer_of(build("llama"), random_pairs(SIZES), budget=budget, first_loss=None, loss=loss)
        return [record.metrics["loss"] for record in trainer.steps()]

    small = losses(40)
    assert small[-1] < small[0] - 0.1
    assert small == pytest.approx(losses(1000), abs=1e-5)


def test_tokens_are_there_only_where_a_component_asks():
    loss, metric = Sigmoid(Sigmoid.Options()), LowestToken(LowestToken.Options())
    assert not need_tokens(loss, [])
    assert need_tokens(loss, [metric])
    assert need_tokens(Tokenwise(Tokenwise.Options()), [])
    trainer = trainer_of(
        build("llama"), random_pairs(SIZES), extra=RecipeMetrics({metric: ("lowest/token",)})
    )
    assert next(trainer.steps()).metrics["lowest/token"] < 0
