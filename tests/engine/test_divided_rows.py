"""Rows whose tokens are divided over ranks: log-probs and gradients are those of whole rows, on every model."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from dpotrain.core.errors import RunError
from dpotrain.data.batches.packing import pack
from dpotrain.engine.layers.checkpointing import checkpoint_layers
from dpotrain.engine.memory.activations import measure
from dpotrain.engine.parallel.one_process import OneProcess
from dpotrain.engine.scoring.divided_rows import divide_rows
from dpotrain.engine.scoring.probe import choose_scorer
from dpotrain.engine.scoring.router_loss import Routing
from tests.engine.context_threads import in_threads
from tests.engine.pairs import random_pairs
from tests.engine.test_packed_equals_unpacked import build

#: The first row has a prompt longer than a slice, so that a rank scores nothing.
ROWS = {
    "a long prompt": [(40, 3, 2)],
    "several": [(5, 9, 3), (2, 1, 17), (11, 4, 4)],
    "a short one": [(1, 1, 1)],
}
KINDS = ["llama", "qwen3", "gemma2", "mistral", "gpt2", "cohere", "mixtral"]


def scorer_of(model, sizes):
    data = random_pairs(sizes)
    batch = pack(data, range(len(data)))
    return choose_scorer(model, pack(random_pairs([(5, 9, 3)]), [0]), packing="on", bf16=False).scorer, batch


def passes(scorer, batch, router=False):
    """Return what a forward pass gives, and the gradients of a loss of it, by name."""
    rows = None
    if router:
        routing = Routing.of(scorer.policy, 0.5)
        rows = scorer.router_sums = routing.no_rows(torch.device("cpu"))
        sums, each = scorer(batch, statistics=("entropy",))
        rows, scorer.router_sums = scorer.router_sums, None
    else:
        sums, each = scorer(batch, statistics=("entropy",))
    slopes = torch.linspace(-1, 1, sums.numel()).view_as(sums)
    loss = (sums * slopes).sum() + each[:, 0].square().mean()
    if rows is not None:
        loss = loss + rows.loss(rows.probabilities).float()
    loss.backward()
    found = {"sums": sums.detach(), "each": each.detach()}
    if rows is not None:
        found |= {"counts": rows.counts, "probabilities": rows.probabilities.detach()}
    return found, {name: weight.grad for name, weight in scorer.policy.named_parameters()}


def compare(kind, sizes, ranks, *, router=False, checkpointed=0, **config):
    model = build(kind, **config)
    expected, gradients = passes(*scorer_of(copy.deepcopy(model), sizes), router=router)
    scorers = [scorer_of(copy.deepcopy(model), sizes) for _ in range(ranks)]

    def one(context):
        scorer, batch = scorers[context.rank]
        checkpoint_layers(scorer.policy, checkpointed)
        scorer.context = context
        return passes(scorer, batch, router=router)

    of_ranks = in_threads(ranks, one)
    for found, _ in of_ranks:
        assert found.keys() == expected.keys()
        for name, values in found.items():
            torch.testing.assert_close(values, expected[name], atol=2e-5, rtol=1e-5)
    for name, gradient in gradients.items():
        of_each = [mine[name] for _, mine in of_ranks if mine[name] is not None]
        # Each rank has the gradient by way of its tokens: together, and once, it is the whole one.
        total = torch.stack(of_each).sum(0)
        torch.testing.assert_close(total, gradient, atol=1e-4 * gradient.abs().max().item(), rtol=1e-4)


@pytest.mark.parametrize("sizes", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("ranks", [2, 4])
def test_log_probs_and_gradients_are_those_of_whole_rows(ranks, sizes):
    compare("llama", sizes, ranks)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_so_they_are_of_every_kind_of_model(kind):
    compare(kind, ROWS["several"], 2)


@pytest.mark.parametrize("ranks", [2, 4])
def test_routers_count_each_token_once(ranks):
    compare("mixtral", ROWS["several"], ranks, router=True)


def test_a_filler_pair_counts_for_no_router():
    model = build("mixtral")
    batch = pack(random_pairs(ROWS["several"]), [])
    scorers = [scorer_of(copy.deepcopy(model), ROWS["several"])[0] for _ in range(2)]

    def one(context):
        scorer = scorers[context.rank]
        scorer.context = context
        return passes(scorer, batch, router=False), _counts(scorer, batch)

    for _, counts in in_threads(2, one):
        assert not counts.any()


def _counts(scorer, batch):
    scorer.router_sums = Routing.of(scorer.policy, 0.5).no_rows(torch.device("cpu"))
    with torch.no_grad():
        scorer(batch)
    return scorer.router_sums.counts


def test_layers_that_are_computed_again_exchange_again():
    compare("llama", ROWS["several"], 2, checkpointed=2)


def test_a_trained_and_a_tied_head():
    compare("llama", ROWS["a long prompt"], 2, tie_word_embeddings=True)


class ThreadsProcess(OneProcess):
    """One of several processes, as far as it says what any of them says."""

    def __init__(self, context):
        super().__init__(torch.device("cpu"))
        self.group = context

    def any(self, *flags):
        told = self.group._summed(torch.tensor(flags, dtype=torch.float32))
        return [count > 0 for count in told.tolist()]


def divide(model, ranks, broken=False):
    sample = pack(random_pairs(ROWS["several"]), range(3))
    scorers = [scorer_of(copy.deepcopy(model), ROWS["several"])[0] for _ in range(ranks)]

    def one(context):
        scorer = scorers[context.rank]
        if broken:
            body = scorer.policy.base_model
            body.layers[0].mlp = Neighbours(body.layers[0].mlp)
        divide_rows(scorer, context, sample, ThreadsProcess(context))
        return scorer.context

    return in_threads(ranks, one)


class Neighbours(nn.Module):
    """A block that adds to each token what the one before it has: a convolution, for instance."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, rows):
        return self.block(rows) + nn.functional.pad(rows, (0, 0, 1, -1))


def test_a_model_is_proven_before_its_rows_are_divided():
    assert [context.rank for context in divide(build("llama"), 2)] == [0, 1]


def test_a_model_that_looks_at_neighbouring_tokens_is_refused():
    with pytest.raises(
        RunError, match=r"parallel.context = 2: LlamaForCausalLM computes other log-probs where"
    ):
        divide(build("llama"), 2, broken=True)


def test_a_model_whose_heads_cannot_be_divided_is_refused():
    with pytest.raises(RunError, match="has 4 attention heads, which 3 processes cannot share equally"):
        divide(build("llama"), 3)


def test_a_process_keeps_its_part_of_what_a_micro_batch_keeps():
    data = random_pairs([(20, 22, 22)])
    one, two = (pack(data, [0] * times) for times in (1, 2))
    whole = measure(scorer_of(build("llama"), ROWS["several"])[0], one, two, (64, 128))
    scorers = [scorer_of(build("llama"), ROWS["several"])[0] for _ in range(2)]

    def of_rank(context):
        scorers[context.rank].context = context
        return replace(measure(scorers[context.rank], one, two, (32, 64)), context=2)

    for found in in_threads(2, of_rank):
        assert found.peak(10_000, 0) == pytest.approx(whole.peak(10_000, 0) / 2, rel=0.15)
        room = whole.peak(10_000, 0)
        assert found.most_tokens(room, 0) == pytest.approx(20_000, rel=0.15)
