"""Tokenized pairs in flat columns, and the keys that name them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpotrain.data.tokens.column_files import COLUMNS, PairFiles, open_pairs, open_prompts
from dpotrain.data.tokens.keys import column, sortable
from dpotrain.data.tokens.tokenized import PER_PAIR, TokenizedPair, TokenizedPairs, pair_key

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


def written(folder, batches) -> TokenizedPairs:
    with PairFiles(folder) as files:
        for batch in batches:
            keys = column([bytes([pair.row % 256]) * 16 for pair in batch])
            files.append(TokenizedPairs.of(batch), keys, np.ones((len(batch), 3), np.int64))
        files.finish()
    return open_pairs(folder, files.largest_token)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(pairs(), max_size=4), max_size=4))
def test_columns_in_files_hold_exactly_what_was_appended(tmp_path_factory, batches):
    many = [pair for batch in batches for pair in batch]
    folder = tmp_path_factory.mktemp("columns")
    grown, at_once = written(folder, batches), TokenizedPairs.of(many)
    assert [plain(grown[i]) for i in range(len(grown))] == [plain(pair) for pair in many]
    columns = [
        (getattr(grown, name), getattr(at_once, name)) for name in (*PER_PAIR, "largest_token", "columns")
    ]
    ((ours, theirs),) = zip(grown.stores, at_once.stores, strict=True)
    columns += [(ours.tokens, theirs.tokens), (ours.scored, theirs.scored)]
    for ours, theirs in ((np.asarray(one), np.asarray(two)) for one, two in columns):
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)
    assert open_prompts(folder).tobytes() == b"".join(bytes([pair.row % 256]) * 16 for pair in many)
    assert {path.name for path in folder.iterdir()} == {f"{name}.npy" for name in [*COLUMNS, "prompts"]}


def test_columns_are_read_from_their_files_and_cannot_be_changed(tmp_path):
    grown = written(tmp_path, [[one()]])
    with pytest.raises(ValueError, match="read-only"):
        grown.stores[0].tokens[0] = 7


def test_a_selection_has_the_pairs_asked_for_in_that_order_over_the_same_tokens():
    rows = [
        TokenizedPair(
            np.array([i]), np.array([i, i]), np.array([9]), np.ones(2, bool), np.ones(1, bool), row=i
        )
        for i in range(4)
    ]
    whole = TokenizedPairs.of(rows)
    some = whole.select(np.array([2, 0]))
    assert [plain(some[i]) for i in range(2)] == [plain(rows[2]), plain(rows[0])]
    assert some.lengths.tolist() == [4, 4]
    assert some.stores is whole.stores
    assert some.keys.tolist() == [whole.keys[2].item(), whole.keys[0].item()]


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
    assert TokenizedPairs.of([one(), one(row=3)]).keys.tobytes() == 2 * keys[0]


def test_key_is_fixed_for_good_because_stored_log_probs_are_found_by_it():
    assert pair_key(one()).hex() == "5fc06dcd4282497ce614481f1786f325"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(min_size=16, max_size=16), max_size=8))
def test_keys_sort_and_compare_by_all_their_bytes(keys):
    """TRAPS: texts of fixed width lose the zeros at their end."""
    different, which = np.unique(sortable(column(keys)), return_inverse=True)
    assert different.tobytes() == b"".join(sorted(set(keys)))
    assert [sorted(set(keys))[place] for place in which] == keys
