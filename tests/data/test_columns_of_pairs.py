"""Tokenized pairs in flat columns, and the keys that name them."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dpotrain.data.accumulate import PairColumns, take
from dpotrain.data.keys import pair_key, pair_keys
from dpotrain.data.tokenized import TokenizedPair, TokenizedPairs

IDS = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5)


@st.composite
def pairs(draw) -> TokenizedPair:
    prompt, chosen, rejected = (np.array(draw(IDS), np.int32) for _ in range(3))
    flags = [
        np.array(draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids))), bool)
        for ids in (chosen, rejected)
    ]
    return TokenizedPair(prompt, chosen, rejected, *flags, row=draw(st.integers(0, 2**40)))


def plain(pair: TokenizedPair) -> list:
    parts = (pair.prompt, pair.chosen, pair.rejected, pair.chosen_scored, pair.rejected_scored)
    return [part.tolist() for part in parts] + [pair.row]


@settings(max_examples=50, deadline=None)
@given(st.lists(pairs(), max_size=6))
def test_growing_columns_hold_exactly_what_was_appended(many):
    columns = PairColumns()
    for pair in many:
        columns.append(pair)
    grown, at_once = columns.finish(), TokenizedPairs.of(many)
    assert [plain(grown[i]) for i in range(len(grown))] == [plain(pair) for pair in many]
    for name in TokenizedPairs.__slots__:
        ours, theirs = getattr(grown, name), getattr(at_once, name)
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)


def test_take_picks_pairs_in_the_order_asked_for():
    rows = [
        TokenizedPair(
            np.array([i]), np.array([i, i]), np.array([9]), np.ones(2, bool), np.ones(1, bool), row=i
        )
        for i in range(4)
    ]
    taken = take(TokenizedPairs.of(rows), [2, 0])
    assert [plain(taken[i]) for i in range(2)] == [plain(rows[2]), plain(rows[0])]


def one(prompt=(1, 2), chosen=(3, 4), rejected=(5,), scored=(True, True), row=0) -> TokenizedPair:
    return TokenizedPair(
        np.array(prompt, np.int32),
        np.array(chosen, np.int32),
        np.array(rejected, np.int32),
        np.array(scored, bool),
        np.ones(len(rejected), bool),
        row,
    )


def test_key_changes_with_tokens_boundaries_and_scored_flags_but_not_with_the_row():
    keys = [
        pair_key(pair)
        for pair in (
            one(),
            one(prompt=(1,), chosen=(2, 3, 4), scored=(True,) * 3),
            one(chosen=(3, 7)),
            one(rejected=(6,)),
            one(scored=(False, True)),
            one(prompt=(7, 2)),
        )
    ]
    assert len(set(keys)) == len(keys)
    assert pair_key(one(row=5)) == keys[0]
    assert pair_keys(TokenizedPairs.of([one(), one(row=3)])) == [keys[0], keys[0]]


def test_key_is_fixed_for_good_because_stored_log_probs_are_found_by_it():
    assert pair_key(one()) == "5fc06dcd4282497ce614481f1786f325"
