"""Stored reference log-probs: appended as computed, content-addressed, torn or damaged records computed again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpotrain.engine.reference_store import RECORD, ReferenceStore

KEYS = [bytes([number]) * 15 + b"\0" for number in range(5)]
SUMS = np.array([[-float(number), -2.5 * number] for number in range(5)], np.float32)


def opened(folder, identity="a", rank=0) -> ReferenceStore:
    store = ReferenceStore(folder, {"weights": identity}, rank)
    store.load()
    return store


def test_what_was_stored_is_found_by_the_next_run(tmp_path):
    store = opened(tmp_path)
    store.append(KEYS[:3], SUMS[:3])
    store.append(KEYS[3:], SUMS[3:])
    again = opened(tmp_path)
    assert again.missing(KEYS).tolist() == []
    assert again.lookup([KEYS[4], KEYS[0]]).tolist() == SUMS[[4, 0]].tolist()


def test_another_reference_has_another_file(tmp_path):
    """TRAPS: a cache key that forgets something that changes the numbers."""
    opened(tmp_path).append(KEYS, SUMS)
    assert opened(tmp_path, identity="b").missing(KEYS).tolist() == [0, 1, 2, 3, 4]


def test_an_interrupted_pass_goes_on(tmp_path):
    opened(tmp_path).append(KEYS[:2], SUMS[:2])
    assert opened(tmp_path).missing(KEYS).tolist() == [2, 3, 4]


def test_the_same_pair_twice_is_computed_once(tmp_path):
    assert opened(tmp_path).missing([KEYS[0], KEYS[1], KEYS[0]]).tolist() == [0, 1]


def test_ranks_write_apart_and_read_together(tmp_path):
    """TRAPS: double counting of rows in a multi-process fill."""
    opened(tmp_path, rank=0).append(KEYS[:2], SUMS[:2])
    opened(tmp_path, rank=1).append(KEYS[1:], SUMS[1:])
    assert opened(tmp_path).lookup(KEYS).tolist() == SUMS.tolist()


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(1, 3 * RECORD.itemsize - 1))
def test_a_torn_tail_loses_only_itself(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("store")
    store = opened(folder)
    store.append(KEYS[:3], SUMS[:3])
    whole = store.path.read_bytes()
    store.path.write_bytes(whole[:cut])
    again = opened(folder)
    lost = again.missing(KEYS[:3]).tolist()
    assert lost == list(range(cut // RECORD.itemsize, 3))
    again.append([KEYS[number] for number in lost], SUMS[lost])
    assert opened(folder).lookup(KEYS[:3]).tolist() == SUMS[:3].tolist()


@pytest.mark.parametrize("place", [0, 17, 25])
def test_a_damaged_record_is_computed_again(tmp_path, place):
    store = opened(tmp_path)
    store.append(KEYS[:2], SUMS[:2])
    data = bytearray(store.path.read_bytes())
    data[place] ^= 0x40
    store.path.write_bytes(bytes(data))
    assert opened(tmp_path).missing(KEYS[:2]).tolist() == [0]
