"""Stored reference log-probs: appended as computed, content-addressed, torn or damaged records computed again."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpotrain.data.tokens.keys import column
from dpotrain.engine.reference.store import RECORD, ReferenceStore

KEYS = column([bytes([number]) * 15 + b"\0" for number in range(5)])
SUMS = np.array([[-float(number), -2.5 * number] for number in range(5)], np.float32)


def opened(folder, identity="a") -> ReferenceStore:
    store = ReferenceStore(folder, {"weights": identity})
    store.load()
    return store


def missing(store, keys=KEYS) -> list[int]:
    return np.flatnonzero(np.isnan(store.lookup(keys)).all(axis=1)).tolist()


def test_what_was_stored_is_found_by_the_next_run(tmp_path):
    store = opened(tmp_path)
    store.append(KEYS[:3], SUMS[:3])
    store.append(KEYS[3:], SUMS[3:])
    again = opened(tmp_path)
    assert missing(again) == []
    assert again.lookup(KEYS[[4, 0]]).tolist() == SUMS[[4, 0]].tolist()


def test_another_reference_has_another_file(tmp_path):
    """TRAPS: a cache key that forgets something that changes the numbers."""
    opened(tmp_path).append(KEYS, SUMS)
    assert missing(opened(tmp_path, identity="b")) == [0, 1, 2, 3, 4]


def test_an_interrupted_pass_goes_on(tmp_path):
    opened(tmp_path).append(KEYS[:2], SUMS[:2])
    assert missing(opened(tmp_path)) == [2, 3, 4]


def test_processes_write_apart_and_read_together(tmp_path):
    """TRAPS: double counting of rows in a multi-process fill; two runs that append to one file."""
    one, two = opened(tmp_path), opened(tmp_path)
    one.append(KEYS[:2], SUMS[:2])
    two.append(KEYS[1:], SUMS[1:])
    one.append(KEYS[:1], SUMS[:1])
    assert len(list(one.folder.glob("*.pairs"))) == 2
    assert opened(tmp_path).lookup(KEYS).tolist() == SUMS.tolist()


def test_a_quarantined_store_is_not_read_and_may_be_filled_again(tmp_path):
    store = opened(tmp_path)
    store.append(KEYS, SUMS)
    store.load()
    renamed = store.quarantine()
    assert list(renamed.glob("*.pairs"))
    assert missing(store) == missing(opened(tmp_path)) == [0, 1, 2, 3, 4]
    store.append(KEYS[:1], SUMS[:1])
    assert missing(opened(tmp_path)) == [1, 2, 3, 4]


def test_numbers_that_are_none_are_computed_again(tmp_path):
    opened(tmp_path).append(KEYS[:2], np.array([[1, np.nan], [1, 2]], np.float32))
    assert missing(opened(tmp_path)) == [0, 2, 3, 4]


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(1, 3 * RECORD.itemsize - 1))
def test_a_torn_tail_loses_only_itself(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("store")
    store = opened(folder)
    store.append(KEYS[:3], SUMS[:3])
    whole = store.path.read_bytes()
    store.path.write_bytes(whole[:cut])
    again = opened(folder)
    lost = missing(again, KEYS[:3])
    assert lost == list(range(cut // RECORD.itemsize, 3))
    again.append(KEYS[lost], SUMS[lost])
    assert opened(folder).lookup(KEYS[:3]).tolist() == SUMS[:3].tolist()


@pytest.mark.parametrize("place", [0, 17, 25])
def test_a_damaged_record_is_computed_again(tmp_path, place):
    store = opened(tmp_path)
    store.append(KEYS[:2], SUMS[:2])
    data = bytearray(store.path.read_bytes())
    data[place] ^= 0x40
    store.path.write_bytes(bytes(data))
    assert missing(opened(tmp_path), KEYS[:2]) == [0]
