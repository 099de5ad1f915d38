"""Duplicates, contradictions and lengths in the report of every run."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpotrain.core.reporter import SilentReporter
from dpotrain.data.lengths import histogram, length_bias
from dpotrain.data.prepare import DataReader
from dpotrain.data.split_report import SplitReport
from tests.data.preparing import prepare, row, write_recipe
from tests.data.tokenizers_for_tests import bpe

pairs_of_few = st.lists(
    st.tuples(st.integers(0, 2), *[st.sampled_from(["yes", "no", "maybe so"])] * 2).filter(
        lambda of: of[1] != of[2]
    ),
    min_size=1,
    max_size=25,
)


def plain(pairs) -> tuple[list, list]:
    """Duplicates and contradictions as (row, earlier row), found by comparing each pair with all before it."""
    twice, against = [], []
    for at, (prompt, chosen, rejected) in enumerate(pairs):
        same = [one for one in range(at) if pairs[one] == pairs[at]]
        swapped = [one for one in range(at) if pairs[one] == (prompt, rejected, chosen)]
        twice += [(at, same[0])] if same else []
        against += [(at, swapped[0])] if swapped else []
    return twice, against


@given(pairs_of_few)
def test_duplicates_and_contradictions_are_those_of_a_plain_search(tmp_path_factory, pairs):
    rows = [{"prompt": f"question {p}", "chosen": f" {c}", "rejected": f" {r}"} for p, c, r in pairs]
    made = write_recipe(tmp_path_factory.mktemp("data"), rows)
    report = DataReader.of(made, bpe(), SilentReporter()).prepare().report.splits["train"]
    for repeats, expected in zip((report.duplicates, report.contradictions), plain(pairs), strict=True):
        assert repeats.count == len(expected)
        assert list(zip(repeats.first_rows, repeats.earlier_rows, strict=True)) == expected[:10]


def test_they_are_in_the_report_its_text_and_its_warnings(recipe):
    rows = [row(number) for number in range(20)]
    rows[9] = rows[3]
    rows[10] = rows[4] | {"chosen": rows[4]["rejected"], "rejected": rows[4]["chosen"]}
    prepared, shown = prepare(recipe(rows))
    train = prepared.report.as_json()["splits"]["train"]
    assert train["duplicates"] == {"count": 1, "first_rows": [9], "earlier_rows": [3]}
    assert train["contradictions"] == {"count": 1, "first_rows": [10], "earlier_rows": [4]}
    assert train["length_bias"]["chosen_longer"] + train["length_bias"]["rejected_longer"] <= 20
    assert sum(train["histogram"].values()) == 20
    text = "\n".join(prepared.report.summary_lines())
    assert "train: 1 pairs repeat an earlier pair (row 9 (as 3))" in text
    assert "train: 1 pairs contradict an earlier pair (row 10 (as 4))" in text
    assert "train: chosen answer longer in " in text
    warnings = "\n".join(shown.warnings)
    assert "Remove one of each two, or check how chosen and rejected were assigned." in warnings
    assert "1 of 20 pairs of train repeat an earlier pair" in warnings


def test_of_data_without_any_nothing_is_said(recipe):
    prepared, shown = prepare(recipe([row(number) for number in range(20)]))
    assert shown.warnings == []
    assert not any("earlier pair" in line for line in prepared.report.summary_lines())


def test_counts_name_their_first_rows(recipe):
    rows = [row(number) | ({"chosen": " yes" * 100} if number % 2 else {}) for number in range(40)]
    prepared, _ = prepare(recipe(rows, max_length=50))
    assert prepared.report.splits["train"].first_rows["completions_cut"] == list(range(1, 21, 2))


def test_a_row_of_several_pairs_is_named_once():
    report = SplitReport()
    for row_number in (3, 3, 5):
        report.count(row_number, "open_ended", 2)
    report.count(6, "open_ended", 0)
    assert (report.open_ended, report.first_rows) == (6, {"open_ended": [3, 5]})


@given(st.lists(st.integers(1, 100_000), min_size=1))
def test_a_histogram_counts_every_length_in_the_bin_that_it_falls_into(lengths):
    found = histogram(np.array(lengths))
    assert sum(found.values()) == len(lengths)
    edges = [int(edge) for edge in found]
    assert edges == sorted(edges)
    below = 0 if edges[0] == 16 else edges[0] * 2 // 3 if edges[0] & (edges[0] - 1) else edges[0] * 3 // 4
    for edge, count in zip(edges, found.values(), strict=True):
        assert count == sum(below < length <= edge for length in lengths)
        below = edge
    first, *_, last = [*found.values()] * 2
    assert first
    assert last


def test_without_lengths_there_is_no_histogram():
    assert histogram(np.zeros(0, np.int64)) == {}


def test_length_bias_counts_the_longer_answers():
    draw = random.Random(0)
    chosen, rejected = (np.array([draw.randint(1, 5) for _ in range(50)]) for _ in range(2))
    bias = length_bias(chosen, rejected)
    assert bias.chosen_longer == sum(c > r for c, r in zip(chosen, rejected, strict=True))
    assert bias.rejected_longer == sum(c < r for c, r in zip(chosen, rejected, strict=True))
    assert bias.mean_difference == pytest.approx(float((chosen - rejected).mean()), abs=0.05)
