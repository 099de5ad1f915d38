"""The recipe's own metrics are sums over pairs until a record divides them, once."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dpotrain.core.errors import PluginError
from dpotrain.core.scores import PairScores
from dpotrain.engine.training.metrics import Window, means_of
from dpotrain.engine.training.recipe_metrics import RecipeMetrics
from dpotrain.plugin.api import Metric


class Chosen(Metric):
    """Of the chosen log-prob, the mean over all pairs, and over those of odd length."""

    name = "chosen"
    measures = ("all", "odd")

    def __call__(self, scores):
        return {"all": scores.policy_chosen, "odd": (scores.policy_chosen, scores.chosen_tokens % 2)}


def scores(chosen, tokens) -> PairScores:
    policy, zero = torch.tensor(chosen, dtype=torch.float32), torch.zeros(len(chosen))
    counts = torch.tensor(tokens, dtype=torch.int64)
    return PairScores(policy, zero, zero, zero, counts, counts)


def of(metric: Metric) -> RecipeMetrics:
    return RecipeMetrics({metric: tuple(f"p/{measure}" for measure in metric.measures)})


CHOSEN = of(Chosen(Chosen.Options()))
NUMBERS = st.floats(-1e3, 1e3, width=32)


@given(
    pairs=st.lists(st.tuples(NUMBERS, st.integers(1, 9)), min_size=1, max_size=12),
    cuts=st.sets(st.integers(1, 11)),
)
def test_means_are_exact_however_the_pairs_are_cut(pairs, cuts):
    """TRAPS: gradient accumulation as a mean of means."""
    bounds = [0, *sorted(cut for cut in cuts if cut < len(pairs)), len(pairs)]
    total = torch.zeros(4, dtype=torch.float64)
    for begin, end in itertools.pairwise(bounds):
        part = scores(*zip(*pairs[begin:end], strict=True))
        total += CHOSEN.sums(part, torch.ones(end - begin))
    got = means_of(CHOSEN.by_name(total))
    odd = [chosen for chosen, tokens in pairs if tokens % 2]
    assert got["p/all"] == pytest.approx(sum(chosen for chosen, _ in pairs) / len(pairs), abs=1e-9)
    assert ("p/odd" in got) == bool(odd)
    if odd:
        assert got["p/odd"] == pytest.approx(sum(odd) / len(odd), abs=1e-9)


def test_a_pair_that_only_fills_counts_nowhere_even_if_it_has_no_number():
    sums = CHOSEN.sums(scores([1.0, math.nan], [3, 3]), torch.tensor([1.0, 0.0]))
    assert means_of(CHOSEN.by_name(sums)) == {"p/all": 1.0, "p/odd": 1.0}


def test_a_window_goes_on_with_what_a_checkpoint_held_and_takes_up_new_metrics():
    sums = torch.zeros(9, dtype=torch.float64)
    window = Window()
    window.add(sums.tolist(), {"p/all": (6.0, 2.0)}, 1.0, 1.0)
    again = Window(sums=window.sums, extra={"p/all": [6.0, 2.0]}, steps=1)
    again.add(sums.tolist(), {"p/all": (1.0, 5.0), "p/new": (4.0, 2.0)}, 1.0, 1.0)
    got = again.metrics(1e-3, 0.5)
    assert (got["p/all"], got["p/new"]) == (1.0, 2.0)


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        ({"all": torch.ones(2)}, "__call__ returned all; it must return its measures by name: all, odd"),
        (
            torch.ones(2),
            r"__call__ returned a Tensor of shape \(2,\), .*; it must return its measures by name",
        ),
        ({"all": torch.ones(2).mean(), "odd": torch.ones(2)}, r'a Tensor of shape \(\), .* as "all"'),
        ({"all": torch.ones(2), "odd": 0.5}, r'a float, 0.5 as "odd"; .* a tensor of shape \(2,\)'),
        ({"all": (torch.ones(2),), "odd": torch.ones(2)}, 'as "all"; it must return one number a pair'),
    ],
)
def test_what_is_no_number_a_pair_is_refused(returned, text):
    class Wrong(Chosen):
        name = "wrong"

        def __call__(self, scores):
            return returned

    with pytest.raises(PluginError, match=text):
        of(Wrong(Wrong.Options())).sums(scores([1.0, 2.0], [1, 1]), torch.ones(2))


def test_nothing_is_differentiated():
    policy = torch.ones(2, requires_grad=True)
    part = PairScores(policy, *[torch.zeros(2)] * 3, *[torch.ones(2, dtype=torch.int64)] * 2)
    assert not CHOSEN.sums(part, torch.ones(2)).requires_grad
