"""The router loss against transformers' own function, over all tokens of a step in one piece, however it is cut."""

import copy
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import nn

from dpotrain.core.errors import RunError
from dpotrain.data.batches.packing import pack
from dpotrain.engine.layers.checkpointing import checkpoint_layers
from dpotrain.engine.reference.reference import LiveReference
from dpotrain.engine.scoring.probe import choose_scorer
from dpotrain.engine.scoring.rope_scaling import LengthRule
from dpotrain.engine.scoring.router_loss import RouterLoss, Routing, summing
from dpotrain.engine.scoring.scorer import PackedScorer, PaddedScorer
from dpotrain.evaluation.evaluation_set import EvaluationSet
from tests.engine.pairs import random_pairs
from tests.engine.test_coupled import Whole
from tests.engine.test_packed_equals_unpacked import build, own_log_prob_sums
from tests.engine.test_trainer import BETA, SIZES, Sigmoid, trainer_of

WEIGHT = 0.5


class Recorded(torch.optim.SGD):
    """Changes nothing, and keeps the gradients of every step."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.parameters(), lr=0.0)
        self.model, self.steps = model, []

    def step(self, closure=None):
        grads = {name: weight.grad for name, weight in self.model.named_parameters()}
        self.steps.append({name: grad.clone() for name, grad in grads.items() if grad is not None})


def balanced_trainer(model, data, **settings):
    """Return a trainer with the router loss, and where it keeps the gradients."""
    trainer = trainer_of(model, data, **settings)
    routing = Routing.of(model, WEIGHT)
    trainer.router_loss = RouterLoss(routing, trainer.scorer)
    assert trainer.router_loss.fault(pack(data, [0, 1])) == ""
    trainer.max_grad_norm = None
    trainer.optimizer = recorded = Recorded(model)
    trainer._peaks = [0.0]
    return trainer, recorded


def own_router_loss(model, data, pairs) -> torch.Tensor:
    """transformers' function, given every token of the pairs once: [prompt + chosen], and the rest of rejected."""
    layers = []
    for index in pairs:
        pair = data[index]
        for completion, first in ((pair.chosen, 0), (pair.rejected, len(pair.prompt))):
            ids = torch.tensor([*pair.prompt.tolist(), *completion.tolist()])
            logits = model(input_ids=ids[None], use_cache=False, output_router_logits=True).router_logits
            layers.append([each.view(len(ids), -1)[first:] for each in logits])
    joined = tuple(torch.cat(each) for each in zip(*layers, strict=True))
    function = sys.modules[type(model).__module__].load_balancing_loss_func
    return function(joined, model.num_experts, model.num_experts_per_tok)


def plain_gradients(model, data, pairs, reference):
    """Return both losses of a step, and the gradient of DPO's plus the weighted router loss."""
    ratios = (own_log_prob_sums(model, data) - reference)[pairs]
    loss = -F.logsigmoid(BETA * (ratios[:, 0] - ratios[:, 1])).mean()
    balance = own_router_loss(model, data, pairs)
    named = dict(model.named_parameters())
    found = torch.autograd.grad(loss + WEIGHT * balance, list(named.values()), allow_unused=True)
    return (
        loss.item(),
        balance.item(),
        {name: grad for name, grad in zip(named, found, strict=True) if grad is not None},
    )


def assert_first_step(trainer, recorded, expected) -> None:
    record = next(trainer.steps())
    loss, balance, gradients = expected
    assert record.metrics["loss"] == pytest.approx(loss, abs=1e-5)
    assert record.metrics["router_loss"] == pytest.approx(balance, abs=1e-5)
    for name, grad in recorded.steps[0].items():
        torch.testing.assert_close(grad, gradients.get(name, torch.zeros_like(grad)), rtol=1e-4, atol=1e-5)
    router = next(name for name in gradients if "gate" in name or "router" in name)
    assert recorded.steps[0][router].abs().max() > 1e-3


def cases() -> Iterator[Any]:
    for kind, packing in [("mixtral", "on"), ("mixtral", "off"), ("qwen3_moe", "on"), ("gpt_oss", "auto")]:
        for budget in (20, 40, 1000):
            quick = budget == 40 or (kind == "mixtral" and packing == "on")
            yield pytest.param(kind, packing, budget, marks=[] if quick else [pytest.mark.soak])


@pytest.mark.parametrize(("kind", "packing", "budget"), list(cases()))
def test_loss_and_gradients_are_those_of_the_step_in_one_piece(kind, packing, budget):
    data, model = random_pairs(SIZES), build(kind)
    reference = own_log_prob_sums(model, data).detach() + torch.linspace(-1, 1, 2 * len(SIZES)).view(-1, 2)
    trainer, recorded = balanced_trainer(
        model, data, budget=budget, packing=packing, reference=reference, first_loss=None
    )
    assert isinstance(trainer.scorer, PackedScorer) == (packing == "on")
    step = next(trainer.plan.steps())
    assert_first_step(trainer, recorded, plain_gradients(copy.deepcopy(model), data, step.pairs, reference))


def test_checkpointed_layers_do_not_count_their_rows_twice():
    data, model = random_pairs(SIZES), build("mixtral")
    reference = own_log_prob_sums(model, data).detach() + 0.5
    trainer, recorded = balanced_trainer(model, data, budget=40, reference=reference, first_loss=None)
    expected = plain_gradients(copy.deepcopy(model), data, next(trainer.plan.steps()).pairs, reference)
    checkpoint_layers(model, 2)
    assert_first_step(trainer, recorded, expected)


def test_frozen_routers_lead_the_gradient_on_to_what_is_before_them():
    data, model = random_pairs(SIZES), build("mixtral")
    reference = own_log_prob_sums(model, data).detach() + 0.5
    for name, weight in model.named_parameters():
        weight.requires_grad_("q_proj" in name or "v_proj" in name)
    found = []
    for weight in (0.0, WEIGHT):
        trainer, recorded = balanced_trainer(model, data, reference=reference, first_loss=None)
        trainer.router_loss = RouterLoss(Routing(weight, 4, 2, 2), trainer.scorer)
        next(trainer.steps())
        found.append(recorded.steps[0])
    names = found[0].keys()
    assert len(names) == 4
    # The first layer's projections are before both routers.
    assert all((found[0][name] - found[1][name]).abs().max() > 1e-4 for name in names if "layers.0" in name)


def test_routers_that_an_adapter_trains_whole_are_counted_once():
    """peft keeps the original beside the copy that it trains; one of them computes."""
    from peft import LoraConfig, get_peft_model

    data, model = random_pairs(SIZES), build("mixtral")
    policy = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["gate"]))
    sample = pack(data, [0, 1])
    scorer = choose_scorer(policy, sample, packing="on", bf16=False).scorer
    loss = RouterLoss(Routing.of(policy, "auto"), scorer)
    assert loss.fault(sample) == ""
    with summing(loss, torch.device("cpu")) as rows:
        scorer(sample)
    assert rows.counts.sum() == 4 * sample.tokens  # two experts at two routers
    rows.loss(rows.probabilities).backward()
    trained = [weight for name, weight in policy.named_parameters() if "gate.modules_to_save" in name]
    assert all(weight.grad.abs().max() > 1e-4 for weight in trained)
    assert len(trained) == 2


@pytest.mark.parametrize(("budget", "passes"), [(1000, 1), (20, 2)])
def test_only_a_step_of_several_micro_batches_scores_them_twice(budget, passes):
    data, model = random_pairs(SIZES), build("mixtral")
    seen = []
    trainer, _ = balanced_trainer(
        model, data, budget=budget, progress=lambda step, done, total: seen.append((done, total))
    )
    step, forwards = next(trainer.plan.steps()), []
    trainer.scorer.register_forward_hook(lambda *_: forwards.append(1))
    next(trainer.steps())
    assert len(forwards) == passes * len(step.microbatches[0])
    assert seen == [(done, len(forwards)) for done in range(len(forwards))]


def test_a_loss_that_couples_pairs_shares_its_first_pass():
    data, model = random_pairs(SIZES), build("mixtral")
    found = []
    for loss in (None, Whole(Whole.Options(beta=BETA))):
        trainer, recorded = balanced_trainer(
            copy.deepcopy(model), data, budget=40, loss=loss, first_loss=None
        )
        forwards = []
        trainer.scorer.register_forward_hook(lambda *_, seen=forwards: seen.append(1))
        record = next(trainer.steps())
        found.append((len(forwards), record.metrics["router_loss"], recorded.steps[0]))
    assert found[0][:2] == found[1][:2]
    for name, grad in found[0][2].items():
        torch.testing.assert_close(found[1][2][name], grad, rtol=1e-4, atol=1e-6)


def test_the_second_pass_draws_the_dropout_of_the_first():
    """With other draws, what the routers get in the second pass would not be what was counted in the first."""
    data, model = random_pairs(SIZES), build("mixtral")
    model.model.embed_tokens = nn.Sequential(model.model.embed_tokens, nn.Dropout(0.5))
    model.train()
    trainer, _ = balanced_trainer(model, data, budget=20, first_loss=None)
    counted = []

    def count(*_):
        sums = trainer.scorer.router_sums
        counted.append(None if sums is None else sums.counts.tolist())

    trainer.scorer.register_forward_hook(count)
    next(trainer.steps())
    half = len(counted) // 2
    assert half > 1
    assert counted[:half] == counted[half:]


def test_training_balances_the_routers_and_the_first_loss_is_checked_as_ever():
    data, model = random_pairs(SIZES), build("mixtral")
    # What all tokens have in common leads them to the first expert.
    model.model.embed_tokens.weight.data += 0.5
    for layer in model.model.layers:
        layer.mlp.gate.weight.data[0] += 0.2
    before = own_router_loss(model, data, range(len(data))).item()
    trainer = trainer_of(model, data)
    trainer.router_loss = RouterLoss(Routing(10.0, 4, 2, 2), trainer.scorer)
    records = list(trainer.steps())
    assert records[0].metrics["loss"] == pytest.approx(math.log(2), abs=1e-6)
    balanced = 2.0  # experts a token
    after = own_router_loss(model, data, range(len(data))).item()
    assert after - balanced < (before - balanced) / 2


@pytest.mark.parametrize("packing", ["on", "off"])
def test_an_evaluation_has_the_loss_of_all_held_out_pairs(packing):
    data, model = random_pairs(SIZES), build("mixtral")
    trainer, _ = balanced_trainer(model, data, packing=packing)
    held_out = EvaluationSet(data, trainer.reference, trainer.plan.costs)
    for budget in (20, 1000):
        got = held_out.evaluate(
            trainer.parallel, trainer.scorer, trainer.loss, budget, advance=lambda _: None,
            router_loss=trainer.router_loss,
        ).metrics  # fmt: skip
        expected = own_router_loss(model, data, range(len(data))).item()
        assert got["router_loss"] == pytest.approx(expected, abs=1e-5)
        assert got["loss"] == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize("packing", ["on", "off"])
def test_a_filler_pair_adds_no_rows(packing):
    data, model = random_pairs(SIZES), build("mixtral")
    trainer, _ = balanced_trainer(model, data, packing=packing)
    counts = []
    for pairs in ([], [0]):
        with summing(trainer.router_loss, torch.device("cpu")) as rows:
            trainer.scorer(pack(data, pairs))
        counts.append(rows.counts.sum().item())
    assert counts == [0.0, sum(SIZES[0]) * 2 * 2]  # two experts at two routers


@pytest.mark.parametrize("kind", [Sigmoid, Whole])
def test_the_reference_adds_no_rows(kind):
    data, model = random_pairs(SIZES), build("mixtral")
    trainer, _ = balanced_trainer(model, data, budget=20, loss=kind(kind.Options(beta=BETA)))
    adding = []

    @contextmanager
    def watched():
        adding.append(trainer.scorer.router_sums)
        yield

    trainer.reference = LiveReference(trainer.scorer, watched)
    next(trainer.steps())
    assert len(adding) > 1
    assert all(sums is None for sums in adding)


def test_sequences_that_are_computed_apart_are_counted_as_together():
    data, model = random_pairs(SIZES), build("mixtral")
    trainer, _ = balanced_trainer(model, data, packing="off")
    together = trainer.scorer
    rules = [LengthRule("by itself", 0, per_length=True)]
    apart = PaddedScorer(model, together.transform, bf16=False, rules=rules)
    found = []
    for scorer in (together, apart):
        with (
            summing(RouterLoss(trainer.router_loss.routing, scorer), trainer.parallel.device) as rows,
            torch.no_grad(),
        ):
            scorer(pack(data, range(len(data))))
        found.append(rows)
    assert found[0].counts.tolist() == found[1].counts.tolist()
    torch.testing.assert_close(found[0].probabilities, found[1].probabilities, rtol=1e-5, atol=1e-5)


_FEW = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 384,
}
#: Mixtures of transformers, by the names that their configurations give to experts.
MIXTURES: dict[str, dict[str, Any]] = {
    "Olmoe": {**_FEW, "num_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 32, "pad_token_id": 0},
    "Phimoe": {**_FEW, "num_local_experts": 4, "num_experts_per_tok": 3, "intermediate_size": 32},
    "Qwen2Moe": {
        **_FEW, "num_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 32, "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32, "mlp_only_layers": [0],
    },
    "Ernie4_5_Moe": {
        **_FEW, "moe_num_experts": 4, "moe_k": 2, "intermediate_size": 32, "moe_intermediate_size": 32,
        "moe_layer_start_index": 0, "moe_num_shared_experts": 1,
    },
}  # fmt: skip


def mixture(name, **config):
    torch.manual_seed(0)
    made = getattr(transformers, f"{name}Config")(**config)
    return transformers.AutoModelForCausalLM.from_config(made, dtype=torch.float32).eval()


@pytest.mark.parametrize("name", MIXTURES)
def test_it_is_the_loss_that_transformers_has_for_many_mixtures(name):
    model, sample = mixture(name, **MIXTURES[name]), pack(random_pairs(SIZES), range(4))
    scorer = choose_scorer(model, sample, packing="auto", bf16=False).scorer
    loss = RouterLoss(Routing.of(model, 0.1), scorer)
    assert (loss.routing.experts, loss.fault(sample)) == (4, "")


def test_mixtures_that_are_balanced_otherwise_have_none():
    """Llama 4 routes by sigmoids; transformers has a weight in its configuration, and no loss. Doge's is of keys."""
    few = {**_FEW, "intermediate_size": 32, "head_dim": 8}
    llama4 = mixture("Llama4Text", **few, num_local_experts=4, intermediate_size_mlp=32)
    assert Routing.of(llama4, "auto") is None
    with pytest.raises(RunError, match="no load-balancing loss for Llama4ForCausalLM"):
        Routing.of(llama4, 0.1)
    doge = mixture("Doge", **few, is_moe=True, num_experts=16, num_experts_per_tok=4)
    sample = pack(random_pairs(SIZES), range(4))
    loss = RouterLoss(Routing.of(doge, "auto"), PaddedScorer(doge, None, bf16=False))
    assert loss.fault(sample).startswith("it does not return its routers' logits (")


@pytest.mark.parametrize(
    ("config", "weight", "expected"),
    [
        ({"router_aux_loss_coef": 0.02}, "auto", 0.02),
        ({"router_aux_loss_coef": 0.0}, "auto", None),
        ({"router_aux_loss_coef": 0.02}, 0.0, None),
        ({"router_aux_loss_coef": 0.02}, 0.3, 0.3),
    ],
)
def test_the_weight_is_the_recipes_or_that_of_the_models_configuration(config, weight, expected):
    found = Routing.of(build("mixtral", **config), weight)
    assert (None if found is None else found.weight) == expected


def test_a_model_without_routers_refuses_a_weight_alone():
    model = build("llama")
    assert Routing.of(model, "auto") is None
    assert Routing.of(model, 0.0) is None
    with pytest.raises(
        RunError, match=r"router_loss_weight = 0\.1, but transformers has no .* for LlamaForCausalLM"
    ):
        Routing.of(model, 0.1)


def test_a_model_whose_own_loss_is_another_is_found_out():
    model, data = build("mixtral"), random_pairs(SIZES)
    scorer = choose_scorer(model, pack(data, [0]), packing="on", bf16=False).scorer
    one = RouterLoss(Routing(0.1, 4, 1, 2), scorer)
    assert one.fault(pack(data, [0])).startswith("transformers' loss of its routers is another")
    more = RouterLoss(Routing(0.1, 5, 2, 2), scorer)
    assert more.fault(pack(data, [0])).startswith("it does not return its routers' logits")


def test_a_mixture_of_one_expert_is_a_dense_model():
    assert Routing.of(build("jamba", num_experts=1), "auto") is None
