"""Sharded weights are gathered whole, and filled from whole ones, however their rows divide; see sharded_by_hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dpotrain.engine.sharding.row_parts import RowParts, rows_of
from tests.torchrun import torchrun


@given(rows=st.integers(0, 70), parts=st.integers(1, 17))
def test_rows_are_cut_as_torch_cuts_them(rows, parts):
    chunks = list(torch.arange(rows).chunk(parts)) if rows else []
    chunks += [torch.arange(0)] * (parts - len(chunks))
    assert [torch.arange(rows)[rows_of(rows, parts, part)].tolist() for part in range(parts)] == [
        chunk.tolist() for chunk in chunks
    ]


@given(rows=st.integers(0, 40), parts=st.integers(1, 9), copies=st.integers(1, 4), data=st.data())
def test_every_row_of_every_copy_is_held_once(rows, parts, copies, data):
    ranks = torch.arange(parts * copies).view(copies, parts)
    of_all = [
        RowParts(rows, tuple(map(tuple, ranks.tolist())), part)
        for _ in range(copies)
        for part in range(parts)
    ]
    for rank, each in enumerate(of_all):
        held = dict(each.everyone())
        assert range(rows)[held.get(rank, slice(0, 0))] == range(rows)[each.own]
    copy = data.draw(st.sampled_from(range(copies)))
    holders = of_all[0].holders(copy * parts)
    assert [row for _, own in holders for row in range(rows)[own]] == list(range(rows))
    assert {holder for holder, _ in holders} <= set(ranks[copy].tolist())


def test_sharded_weights_are_whole_where_they_are_saved():
    checks(4, 4)


@pytest.mark.soak
@pytest.mark.parametrize(("processes", "group"), [(2, 2), (4, 2), (3, 3)])
def test_they_are_however_they_are_sharded(processes, group):
    checks(processes, group)


def checks(processes: int, group: int) -> None:
    torchrun(processes, "tests.engine.sharded_by_hand", str(group))
