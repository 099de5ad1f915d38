"""The slices of a packed row are the row, and the tokens that they predict are those that it scores."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpotrain.data.batches.packing import pack
from dpotrain.data.batches.row_slices import RowSlice, slice_length
from tests.engine.pairs import random_pairs

SIZE = st.integers(1, 12)


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.tuples(SIZE, SIZE, SIZE), min_size=1, max_size=4), ranks=st.integers(1, 7))
def test_slices_are_the_row_and_every_scored_token_is_predicted_by_one_of_them(sizes, ranks):
    data = random_pairs(sizes)
    batch = pack(data, range(len(sizes)))
    tokens, length = len(batch.input_ids), slice_length(len(batch.input_ids), ranks)
    slices = [RowSlice.of(batch, rank, ranks) for rank in range(ranks)]
    assert all(len(each.input_ids) == len(each.position_ids) == len(each.own) == length for each in slices)
    own = torch.cat([each.own for each in slices])
    assert own.tolist() == [1] * tokens + [0] * (ranks * length - tokens)
    for name in ("input_ids", "position_ids"):
        whole = torch.cat([getattr(each, name) for each in slices])
        assert whole[:tokens].equal(getattr(batch, name))
        assert not whole[tokens:].any()
    assert torch.cat([each.scored for each in slices]).sort().values.tolist() == list(
        range(len(batch.targets))
    )
    for rank, each in enumerate(slices):
        assert len(each.predicting) == len(each.targets) == max(1, len(each.scored))
        assert ((each.predicting >= 0) & (each.predicting < length)).all()
        own_count = len(each.scored)
        assert (each.predicting[:own_count] + rank * length).equal(batch.predicting[each.scored])
        assert each.targets[:own_count].equal(batch.targets[each.scored])


def test_what_is_scored_is_looked_up_in_the_host_s_memory():
    """On a device, their number would have to be waited for."""
    batch = pack(random_pairs([(5, 3, 4)]), [0])

    class Waits(torch.Tensor):
        def cpu(self):
            raise AssertionError("waited for the device")

    moved = pack(random_pairs([(5, 3, 4)]), [0])
    object.__setattr__(moved, "predicting", moved.predicting.as_subclass(Waits))
    with pytest.raises(AssertionError, match="waited"):
        RowSlice.of(moved, 0, 2)
    object.__setattr__(moved, "on_host", batch)
    assert RowSlice.of(moved, 0, 2).scored.equal(RowSlice.of(batch, 0, 2).scored)
