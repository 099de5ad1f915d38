"""A loss that does not do what the engine relies on is named before the first update."""

import math
from contextlib import nullcontext

import pytest
import torch

from dpotrain.core.errors import PluginError, RunError
from dpotrain.core.scores import PairScores
from dpotrain.engine.scoring.loss_check import check_apart, check_gradients, loss_fault, select
from dpotrain.testing import run_recipe
from dpotrain_plugins.lora import Lora
from dpotrain_plugins.losses.dpo import Dpo
from tests.plugin.fakes import Offers


def scores(pairs: int = 3, tokens: bool = False) -> PairScores:
    """Policy and reference alike, as before the first update."""
    policy = torch.linspace(-9, -3, 2 * pairs).reshape(2, pairs).requires_grad_()
    counts = torch.arange(1, 2 * pairs + 1).reshape(2, pairs)
    each = torch.arange(int(counts.sum())).float() if tokens else None
    return PairScores(
        *policy, *policy.detach(), *counts, policy_tokens=each, columns={"weight": torch.ones(pairs)}
    )


class Named(Dpo):
    name = "odd"


def odd(of):
    made = type("Odd", (Named,), {"__call__": lambda self, scores: of(scores, Dpo.__call__(self, scores))})
    return made(made.Options())


@pytest.mark.parametrize("pairs", [1, 2, 9])
def test_one_that_is_computed_pair_by_pair_passes(pairs):
    given = scores(pairs)
    check_apart(odd(lambda scores, losses: losses * scores.columns["weight"]), given)


@pytest.mark.parametrize("pairs", [1, 2, 9])
@pytest.mark.parametrize(
    "couples",
    [
        lambda scores, losses: losses - losses.mean(),
        lambda scores, losses: losses.mean().expand(len(losses)),
        lambda scores, losses: losses.cumsum(0),
        lambda scores, losses: losses * len(losses),
    ],
)
def test_one_that_couples_pairs_is_named_also_where_a_micro_batch_has_one(couples, pairs):
    with pytest.raises(PluginError, match=r"__call__ returned .* for a pair alone and .* beside"):
        check_apart(odd(couples), scores(pairs))


def test_one_that_reads_a_reference_which_it_says_it_needs_not_is_named():
    loss = odd(lambda scores, losses: losses)
    loss.needs_reference = False
    with pytest.raises(
        PluginError, match=r"depend on scores\.reference_chosen .* where needs_reference is False"
    ):
        check_apart(loss, scores())


def test_one_with_a_state_is_not_asked_again():
    loss = odd(lambda scores, losses: losses - losses.mean())
    type(loss).state_dict = lambda self: {"mean": 0.0}
    check_apart(loss, scores())


def test_one_that_is_no_number_by_itself_is_named_with_the_pair_s_scores():
    losses = torch.tensor([0.7, math.nan, math.nan])
    said = loss_fault(scores(), losses)
    assert said.startswith("__call__ returned nan for a pair with finite log-probs: policy -7.8000 chosen")


def test_log_probs_that_are_not_finite_are_not_the_loss_s_fault():
    given = scores()
    given.policy_chosen.data[1] = math.nan
    losses = torch.tensor([0.7, math.nan, 0.7])
    assert loss_fault(given, losses) == ""


class Nan(Dpo):
    name = "nan"

    def __call__(self, scores):
        return super().__call__(scores) * math.nan


def test_a_run_with_such_a_loss_ends_before_the_first_update_and_names_it(tmp_path):
    said = r'nothing was updated\.\nloss "nan" of plugin "odd": __call__ returned nan for a pair with finite'
    with pytest.raises(RunError, match=said):
        run_recipe('loss.use = "nan"', tmp_path, plugins=[Offers("odd", Nan)])


def test_random_numbers_that_it_draws_for_the_check_are_not_missing_afterwards():
    before = torch.random.get_rng_state()
    check_apart(odd(lambda scores, losses: losses + 0 * torch.rand(1)), scores())
    assert torch.random.get_rng_state().equal(before)


def test_pairs_are_selected_with_their_own_tokens():
    some = select(scores(tokens=True), [2, 0])
    assert some.chosen_tokens.tolist() == [3, 1]
    assert some.policy_tokens.tolist() == [*map(float, range(12, 21)), *map(float, range(5))]


def test_a_loss_that_leaves_the_gradients_behind_is_named():
    given = scores()
    with pytest.raises(PluginError, match="__call__ returned losses without gradients"):
        check_gradients(odd(None), given.policy_chosen.detach())


class Beside(Lora):
    """Trains a tensor that the policy does not use, as one whose effect is in a wrapper's forward."""

    name = "beside"

    def attach(self, policy):
        policy.requires_grad_(False)
        policy.register_parameter("virtual_tokens", torch.nn.Parameter(torch.zeros(2)))
        return policy

    def rehearse_saving(self, policy, folder):
        pass

    def reference(self, policy):
        return nullcontext()


def test_an_adapter_that_the_log_probs_do_not_depend_on_is_refused_by_what_it_trains(tmp_path):
    """TRAPS: nothing is trained."""
    with pytest.raises(RunError, match=r"do not depend on what is trained.*\n?.*virtual_tokens"):
        run_recipe(
            'adapter.use = "beside"\nreference.when = "live"', tmp_path, plugins=[Offers("odd", Beside)]
        )
