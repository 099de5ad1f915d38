"""A head that is tied to the embedding: one gradient in one tensor, the same numbers."""

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dpotrain.data.batches.packing import pack
from dpotrain.engine.scoring.logprobs import LogitTransform
from dpotrain.engine.scoring.scorer import PackedScorer, PaddedScorer, Scorer
from dpotrain.engine.scoring.tied_head import head_of, share_gradient
from tests.engine.pairs import random_pairs
from tests.support import tiny_model

BATCH = pack(random_pairs([(20, 30, 14), (5, 9, 11)]), [0, 1])


def tied_model(padding: int | None = None) -> nn.Module:
    model = tiny_model("llama").train()
    model.model.embed_tokens.padding_idx = padding
    model.lm_head.weight = model.model.embed_tokens.weight
    return model


class Operations(TorchDispatchMode):
    """Notes which operations make a tensor of the size of the embedding."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.found = size, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        if isinstance(output, torch.Tensor) and output.numel() == self.size and not function.is_view:
            self.found.append(function.name().removeprefix("aten::").split(".")[0])
        return output


def gradients(scorer: Scorer) -> tuple[torch.Tensor, dict[str, torch.Tensor], list[str]]:
    """Return scores, gradients, and the operations of the backward pass over tensors like the embedding."""
    scores = scorer(BATCH)
    loss = (scores * torch.tensor([[1.0, -2.0], [0.5, 3.0]])).sum()
    model = scorer.policy
    with Operations(model.lm_head.weight.numel()) as operations:
        loss.backward()
    found = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    return scores.detach(), found, operations.found


@pytest.mark.parametrize("kind", [PackedScorer, PaddedScorer])
@pytest.mark.parametrize("padding", [None, int(BATCH.input_ids[3])])
def test_scores_and_gradients_stay_and_there_is_one_tensor_for_the_gradient(kind, padding):
    scorer = kind(tied_model(padding), LogitTransform(), False)
    scores, expected, before = gradients(scorer)
    assert share_gradient(scorer.policy)
    assert not share_gradient(scorer.policy)
    for _ in range(2):
        again, found, after = gradients(scorer)
        assert again.equal(scores)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6)
    # The embedding's own, and its sum with the head's.
    *of_head, dense, _ = before
    assert dense == "embedding_dense_backward"
    assert after == [*of_head, "index_put_"]


def test_micro_batches_add_up():
    plain, shared = tied_model(), tied_model()
    share_gradient(shared)
    for model in (plain, shared):
        scorer = PackedScorer(model, LogitTransform(), False)
        for _ in range(2):
            scorer(BATCH).sum().backward()
    for one, two in zip(plain.parameters(), shared.parameters(), strict=True):
        torch.testing.assert_close(two.grad, one.grad, rtol=1e-5, atol=1e-5)


def test_a_model_that_computes_its_own_logits_gets_both_gradients_too():
    plain, shared = tied_model(), tied_model()
    share_gradient(shared)
    found = []
    for model in (plain, shared):
        PaddedScorer(model, None, False)(BATCH).sum().backward()
        found.append(model.lm_head.weight.grad)
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)


def test_without_gradients_and_between_passes_nothing_is_handed_on():
    model = tied_model()
    share_gradient(model)
    scorer = PackedScorer(model, LogitTransform(), False)
    with torch.no_grad():
        scorer(BATCH)
    assert head_of(model) is model.lm_head
    scorer(BATCH)
    assert head_of(model) is model.lm_head
    copy.deepcopy(model)


def test_only_a_plain_tied_embedding_in_float32_is_replaced():
    assert not share_gradient(tiny_model("llama"))
    assert not share_gradient(tied_model().bfloat16())
    assert not share_gradient(tiny_model("gemma2"))  # whose embedding is a class of its own, or not tied
    model = tied_model()
    names = list(model.state_dict())
    assert share_gradient(model)
    assert isinstance(model.model.embed_tokens, nn.Embedding)
    assert list(model.state_dict()) == names
