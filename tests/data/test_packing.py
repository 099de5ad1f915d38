"""The packed row: tokens, positions, and which place predicts which token."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpotrain.data.batches.packing import pack
from dpotrain.engine.scoring.padding import pad
from dpotrain.engine.scoring.rope_scaling import LengthRule
from tests.engine.pairs import random_pairs

SIZE = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))


def test_a_row_by_hand():
    data = random_pairs([(3, 2, 2)])
    batch = pack(data, [0])
    assert batch.input_ids.tolist() == data.stores[0].tokens.tolist()
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 4, 3, 4]
    # The prompt's last token predicts both first tokens: chosen from places 2 and 3, rejected from 2 and 5.
    assert batch.predicting.tolist() == [2, 3, 2, 5]
    assert batch.targets.tolist() == data.stores[0].tokens[[3, 4, 5, 6]].tolist()
    assert batch.scored_tokens.tolist() == [[2, 2]]
    assert batch.tokens == 7


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(SIZE, min_size=1, max_size=5))
def test_every_prompt_stands_once_and_nothing_is_padded(sizes):
    batch = pack(random_pairs(sizes), range(len(sizes)))
    assert len(batch.input_ids) == sum(map(sum, sizes)) == batch.tokens
    assert len(batch.targets) == sum(chosen + rejected for _, chosen, rejected in sizes)


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(SIZE, min_size=1, max_size=4), seed=st.integers(0, 9))
def test_padded_rows_hold_the_same_sequences_and_predict_the_same_tokens(sizes, seed):
    data = random_pairs(sizes, seed)
    draw = np.random.default_rng(seed)
    for index in range(len(data)):
        # Views into the columns: leave each completion's last token scored.
        pair = data[index]
        pair.chosen_scored[:-1] = draw.random(len(pair.chosen) - 1) < 0.5
        pair.rejected_scored[:-1] = draw.random(len(pair.rejected) - 1) < 0.5
    batch = pack(data, range(len(data)))
    (part,), order = pad(batch)
    ids, mask, places = part.ids, part.mask, part.places
    assert order is None
    rows = [row[seen.bool()].tolist() for row, seen in zip(ids, mask, strict=True)]
    expected = []
    for index in range(len(data)):
        pair = data[index]
        expected += [[*pair.prompt, *pair.chosen], [*pair.prompt, *pair.rejected]]
    assert rows == expected
    # The place after the predicting one holds the predicted token.
    assert torch.equal(ids.flatten()[places + 1], batch.targets)
    assert torch.equal(ids.flatten()[places], batch.input_ids[batch.predicting])
    # Parts by length hold the same, in another order.
    parts, order = pad(batch, [LengthRule("by length", 0, per_length=True)])
    assert sorted(row for each in parts for row in each.ids.tolist()) == sorted(expected)
    assert all(each.mask.all() for each in parts)
    for name in ("input_ids", "targets"):
        wanted = batch.targets if name == "targets" else batch.input_ids[batch.predicting]
        found = torch.cat([each.ids.flatten()[each.places + (name == "targets")] for each in parts])
        assert torch.equal(found if order is None else found[order], wanted)
    assert sum(int(each.once.sum()) for each in parts) == int(part.once.sum()) == len(batch.input_ids)


def test_an_empty_microbatch_becomes_the_shortest_pair_as_a_filler_of_no_weight():
    """TRAPS: padded duplicates of the last evaluation batch counted."""
    batch = pack(random_pairs([(5, 5, 5), (1, 2, 1), (9, 9, 9)]), [])
    assert batch.pairs.tolist() == [1]
    assert batch.weights.tolist() == [0.0]
    assert batch.tokens == 0
