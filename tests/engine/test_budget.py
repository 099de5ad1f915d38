"""How tokens and checkpointed layers follow from what is kept and what is free."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpotrain.engine.layers.tiling import TILE_TOKENS
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


@pytest.mark.parametrize("offload", [False, None])
def test_micro_batches_are_full_before_fewer_layers_are_checkpointed(offload, tiles_of_50):
    for full in (0, 400, 500, 800, 1000, 10**6):
        for room in range(200_000, 1_200_000, 20_000):
            given = {"longest": 500, "device": "cuda", "offload": offload}
            sparing, filled = fit(TILED, room, **given), fit(TILED, room, full=full, **given)
            if (
                full <= 500 or sparing.tile or sparing.on_host
            ):  # those are for pairs that do not fit otherwise
                assert filled == sparing
                continue
            assert (filled.tile, filled.on_host) == (0, False)
            tokens = {k: TILED.most_tokens(room, k) for k in range(11)}
            enough = [k for k in tokens if tokens[k] >= full]
            if enough:
                assert filled.checkpointed == enough[0] >= sparing.checkpointed
            else:
                assert filled.tokens == max(tokens.values()) >= sparing.tokens


def test_what_the_recipe_sets_is_not_filled():
    given = {"longest": 500, "device": "cuda", "full": 8192}
    assert fit(TEN, 1050 * 600, tokens=600, **given).checkpointed == 0
    assert fit(TEN, 1050 * 600, checkpointed=0, **given).tokens == 600


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


#: The same, and 60 of a layer's bytes and 20 of the temporary ones are gone in tiles.
TILED = replace(TEN, tiled=(60.0,) * 10, temporary_tiled=20.0)


@pytest.fixture
def tiles_of_50(monkeypatch):
    for device in TILE_TOKENS:
        monkeypatch.setitem(TILE_TOKENS, device, 50)


def test_tiles_come_after_all_layers_and_the_host_after_tiles(tiles_of_50):
    longest, found = 1000, []
    for room in range(1_000_000, 50_000, -500):
        chosen = fit(TILED, room, longest=longest, device="cuda", offload=None)
        if chosen.peak(TILED, longest) <= room:
            found.append((chosen.checkpointed, chosen.tile, chosen.on_host))
    ways = list(dict.fromkeys(found))
    # The last layer's backward pass follows its forward pass, so that computing it again saves nothing.
    assert ways == [*((k, 0, False) for k in range(1, 10)), (10, 50, False), (10, 50, True)]
    # Each of them takes less than the one before.
    peaks = [TILED.peak(longest, *way) for way in ways]
    assert peaks == sorted(peaks, reverse=True)


def test_what_is_gone_in_tiles_stays_of_one_tile(tiles_of_50):
    whole, tiled = TILED.peak(1000, 10), TILED.peak(1000, 10, 50)
    assert whole - tiled == (60 + 20) * (1000 - 50)
    assert TILED.peak(50, 10, 50) == TILED.peak(50, 10)
    assert TILED.peak(1000, 0, 50) == TILED.peak(1000, 0) - (10 * 60 + 20) * 950


@given(st.integers(0, 10**6), st.integers(0, 10), st.integers(1, 300), st.booleans())
def test_with_tiles_what_fits_is_the_most_that_fits(room, layers, tile, on_host):
    tokens = TILED.most_tokens(room, layers, tile, on_host)
    assert tokens == 0 or TILED.peak(tokens, layers, tile, on_host) <= room * (1 + 1e-9)
    assert TILED.peak(tokens + 1, layers, tile, on_host) >= room * (1 - 1e-9)


def test_on_a_cpu_nothing_is_moved(tiles_of_50):
    for offload in (None, True):
        assert not fit(TILED, 1000, longest=500, device="cpu", offload=offload).on_host


def test_where_the_recipe_says_so_all_layers_are_checkpointed_and_moved():
    chosen = fit(TEN, 1e12, longest=500, device="cuda", offload=True)
    assert (chosen.checkpointed, chosen.on_host, chosen.tile) == (10, True, 0)
    chosen = fit(TEN, 1e12, longest=500, device="cuda", offload=True, checkpointed=4)
    assert (chosen.checkpointed, chosen.on_host) == (4, True)


def test_a_host_without_room_takes_nothing():
    need = 10 * 4096  # 10 inputs of 2500 bytes, in pinned memory of a power of two
    assert TEN.on_host(500, 10) == need
    for room, moved in ((need, True), (need - 1, False)):
        assert fit(TEN, 1000, longest=500, device="cuda", offload=None, host_room=room).on_host == moved


def test_no_checkpointing_is_no_tiles_and_nothing_to_move(tiles_of_50):
    chosen = fit(TILED, 1000, longest=500, device="cuda", offload=None, checkpointed=0)
    assert (chosen.checkpointed, chosen.tile, chosen.on_host) == (0, 0, False)


def test_a_number_of_layers_that_is_set_stays_and_tiles_help(tiles_of_50):
    room = TILED.peak(500, 4, 50)
    chosen = fit(TILED, room, longest=500, device="cpu", checkpointed=4)
    assert (chosen.checkpointed, chosen.tile) == (4, 50)
