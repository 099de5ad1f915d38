"""Facts of pairs are the same however the rows are cut into batches and whoever works on them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpotrain.core.errors import DataError
from dpotrain.core.reporter import SilentReporter
from dpotrain.data.inspection import inspection as module
from dpotrain.data.inspection.facts import FACTS, FactReader, collect_facts
from dpotrain.data.inspection.inspection import inspect_data
from dpotrain.data.inspection.shingles import NEAR, shingles, similarity, words
from dpotrain_plugins.formatters.standard import StandardFormatter
from tests.data.inspection.inspecting import clean, inspected, reader

FORMATTER = StandardFormatter(StandardFormatter.Options())


@given(st.integers(1, 40))
def test_batches_of_any_size_give_the_same_facts(size):
    rows = list(enumerate(clean(40)))
    read = FactReader(FORMATTER)
    parts = [read(rows[start : start + size]) for start in range(0, len(rows), size)]
    assert np.array_equal(np.concatenate(parts), read(rows))


@pytest.mark.parametrize("processes", [2, 3])
def test_workers_give_the_same_facts(tmp_path, monkeypatch, processes):
    monkeypatch.setattr("dpotrain.data.tokens.workers.MIN_ROWS_FOR_WORKERS", 1)
    monkeypatch.setattr("dpotrain.data.tokens.workers.ROWS_PER_BATCH", 7)
    rows = reader(clean(60)).splits["train"].rows
    numbers = [number for number in range(60) if number % 5]
    one, several = (
        collect_facts(rows, numbers, FactReader(FORMATTER), tmp_path, SilentReporter(), count, "inspecting")
        for count in (1, processes)
    )
    assert np.array_equal(one, several)
    assert one["row"].tolist() == numbers


def test_an_inspection_is_the_same_with_workers_and_with_tokens_from_the_cache(tmp_path, monkeypatch):
    rows = clean(60)
    rows[9] = rows[3]
    rows[20] = rows[5] | {"chosen": rows[5]["rejected"], "rejected": rows[5]["chosen"]}
    alone = inspected(rows, eval_fraction=0.3).as_json()
    monkeypatch.setattr("dpotrain.data.tokens.workers.MIN_ROWS_FOR_WORKERS", 1)
    monkeypatch.setattr("dpotrain.data.prepare.cores", lambda: 2)
    monkeypatch.setattr(module, "cores", lambda: 2)
    together = inspected(rows, eval_fraction=0.3).as_json()
    assert {**alone, "fingerprints": None} == {**together, "fingerprints": None}


@given(st.lists(st.integers(0, 39), max_size=4), st.integers(1, 60))
def test_the_similarity_of_answers_that_are_nearly_the_same_is_exact(changed, length):
    chosen = [f"word{number}" for number in range(length)]
    rejected = ["other" if number in changed else word for number, word in enumerate(chosen)]
    texts = [" ".join(of) for of in (chosen, rejected)]
    expected = similarity(*(shingles(words(text)) for text in texts))
    if texts[0] == texts[1]:
        return
    (fact,) = FactReader(FORMATTER)([(0, {"prompt": "q", "chosen": texts[0], "rejected": texts[1]})])
    if expected >= NEAR:
        assert fact["similarity"] == np.float32(expected)
    else:
        assert fact["similarity"] < NEAR


def test_facts_have_a_fixed_size_and_are_no_texts():
    assert FACTS.itemsize < 200
    assert not FACTS.hasobject


def test_rows_that_cannot_be_read_have_no_facts():
    rows = [(0, clean(1)[0]), (1, {"prompt": "q", "chosen": "", "rejected": "x"}), (2, clean(1)[0])]
    assert FactReader(FORMATTER)(rows)["row"].tolist() == [0, 2]


def test_a_full_disk_is_told_with_what_to_do(monkeypatch):
    made = reader(clean(5))
    prepared = made.prepare()

    def full(self, values):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dpotrain.data.tokens.column_files.Column.append", full)
    with pytest.raises(DataError, match=r"(?s)No space left on device.*TMPDIR"):
        inspect_data(made, prepared, SilentReporter())
