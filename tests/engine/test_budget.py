"""How tokens and checkpointed layers follow from what is kept and what is free."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpotrain.engine.memory.activations import Activations, Kept
from dpotrain.engine.memory.budget import MOST_TOKENS, fit

#: Ten layers of 100 bytes a token, 5 where checkpointed.
TEN = Activations(Kept(0, 20), (Kept(0, 100),) * 10, (Kept(0, 5),) * 10, Kept(0, 30))


def test_with_plenty_of_room_speed_is_the_limit():
    for device, most in MOST_TOKENS.items():
        found = fit(TEN, 1e12, longest=500, device=device)
        assert (found.tokens, found.limit, found.checkpointed) == (most, "speed", 0)


def test_with_less_the_memory_is():
    found = fit(TEN, 1050 * 600, longest=500, device="cuda")
    assert (found.tokens, found.limit, found.checkpointed) == (600, "memory", 0)


def test_as_few_layers_as_let_the_longest_pair_fit():
    room = 500 * (20 + 30 + 7 * 100 + 3 * 5)
    found = fit(TEN, room, longest=500, device="cuda")
    assert (found.checkpointed, found.tokens) == (3, 500)
    assert fit(TEN, room - 1, longest=500, device="cuda").checkpointed == 4


def test_all_layers_where_nothing_helps():
    found = fit(TEN, 1000, longest=500, device="cuda")
    assert (found.checkpointed, found.tokens) == (10, 5)


def test_what_the_recipe_sets_stays():
    found = fit(TEN, 1000, longest=500, device="cpu", tokens=777, checkpointed=2)
    assert (found.tokens, found.checkpointed, found.limit) == (777, 2, "recipe")


def test_layers_are_chosen_for_the_tokens_that_the_recipe_sets():
    room = 1050 * 600
    assert fit(TEN, room, longest=500, device="cuda", tokens=600).checkpointed == 0
    assert fit(TEN, room, longest=500, device="cuda", tokens=1200).checkpointed > 0


def test_a_model_without_known_layers_is_never_checkpointed_by_itself():
    assert fit(Activations(Kept(0, 9), (), (), Kept()), 1, longest=5, device="cpu").checkpointed == 0


@given(st.floats(0, 1e9), st.integers(1, 10**5))
def test_what_is_chosen_fits_if_the_longest_pair_does(room, longest):
    found = fit(TEN, room, longest=longest, device="cuda")
    if TEN.peak(longest, found.checkpointed) <= room:
        assert TEN.peak(found.tokens, found.checkpointed) <= room * (1 + 1e-9)


@pytest.mark.parametrize("checkpointed", [None, 4])
def test_more_room_never_means_fewer_tokens_with_as_many_layers(checkpointed):
    found = [fit(TEN, room, longest=100, device="cuda", checkpointed=4) for room in range(0, 10**6, 9999)]
    assert [each.tokens for each in found] == sorted(each.tokens for each in found)
