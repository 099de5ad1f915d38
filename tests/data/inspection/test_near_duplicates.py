"""Candidates by sketches, compared exactly: nothing is found that is not so, and what is the same is always found."""

import random

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dpotrain.data.inspection import near_duplicates as module
from dpotrain.data.inspection.near_duplicates import candidates, near_duplicates
from dpotrain.data.inspection.shingles import BANDS, NEAR, bands, shingles, similarity, sketch, union, words

#: Few words, so that texts drawn are often alike.
texts = st.lists(
    st.lists(st.sampled_from(["a", "b", "c", "Paris", "犬", "dog"]), min_size=1, max_size=30).map(" ".join),
    max_size=20,
)


def shingled(text: str) -> np.ndarray:
    return shingles(words(text))


def exact(one: str, other: str) -> float:
    """The Jaccard similarity, written plainly."""

    def phrases(text: str) -> set[tuple[str, ...]]:
        of = words(text)
        return {tuple(of[at : at + 3]) for at in range(max(1, len(of) - 2))}

    a, b = phrases(one), phrases(other)
    return len(a & b) / len(a | b)


def search(of: list[str], **options):
    table = np.array([bands(sketch(shingled(text))) for text in of], np.uint32).reshape(len(of), BANDS)
    contents = np.array([hash(text) & (2**64 - 1) for text in of], np.uint64)
    return near_duplicates(
        lambda band: table[:, band], contents, lambda place: [shingled(of[place])], **options
    )


@given(texts)
def test_what_is_found_is_as_alike_as_is_said_and_not_the_same(of):
    found = search(of)
    assert found.complete
    assert sorted(found.later) == list(found.later)
    for later, earlier in zip(found.later, found.earlier, strict=True):
        assert earlier < later
        assert of[earlier] != of[later]
        assert exact(of[earlier], of[later]) >= NEAR


@given(texts, st.randoms())
def test_texts_that_differ_in_case_and_white_space_only_are_always_found(of, draw):
    of = list(dict.fromkeys(of))
    twins = [text.upper().replace(" ", "\n ") for text in of]
    all_of = [*of, *twins]
    draw.shuffle(all_of)
    later = search(all_of).later
    for text, twin in zip(of, twins, strict=True):
        if text != twin:
            assert max(all_of.index(text), all_of.index(twin)) in later


@given(st.lists(st.integers(0, 5), min_size=2, max_size=30))
def test_of_texts_that_are_the_same_only_the_first_is_looked_at(numbers):
    of = [f"the text of number {number} is this one and no other" for number in numbers]
    later, earlier = candidates(
        lambda band: np.zeros(len(of), np.uint32),
        np.array([hash(text) & (2**64 - 1) for text in of], np.uint64),
    )
    firsts = {numbers.index(number) for number in numbers}
    assert set(later) | set(earlier) <= firsts
    # All share their bands, so each is a candidate with the first and with the one before it.
    assert set(later) == firsts - {min(firsts)} or len(firsts) == 1


@example("a b c", "a b c d")
@given(*[st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=30).map(" ".join)] * 2)
def test_similarity_is_that_of_the_plain_definition(one, other):
    assert similarity(shingled(one), shingled(other)) == pytest.approx(exact(one, other))


@given(*[st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=30).map(" ".join)] * 2)
def test_the_sketch_of_two_texts_is_the_smaller_of_their_minima(one, other):
    both = np.concatenate([shingled(one), shingled(other)])
    assert np.array_equal(sketch(both), union([sketch(shingled(one)), sketch(shingled(other))]))


def test_texts_a_little_changed_are_found_nearly_always_and_others_are_not():
    draw = random.Random(0)
    vocabulary = [f"word{number}" for number in range(1000)]
    of, expected = [], set()
    for _ in range(300):
        text = draw.choices(vocabulary, k=60)
        of.append(" ".join(text))
        text[draw.randrange(60)] = "changed"  # 3 of 61 phrases: 0.9 alike
        of.append(" ".join(text))
        expected.add(len(of) - 1)
    found = search(of)
    assert set(found.later) <= expected
    assert len(found.later) >= 0.99 * len(expected)


def test_a_text_is_not_compared_with_all_of_a_large_group():
    of = [f"number {number} " + "the same long text again and again" for number in range(500)]
    later, earlier = candidates(lambda band: np.zeros(500, np.uint32), np.arange(500, dtype=np.uint64))
    assert len(later) < 2 * len(of)
    assert len(earlier) == len(later)


def test_in_a_group_a_text_is_compared_with_the_first_and_with_the_one_before():
    long = [f"word{number}" for number in range(40)]
    of = [" ".join(text) for text in (long, long[::-1], [*long, "more"], [*long[::-1], "more"])]
    found = near_duplicates(
        lambda band: np.zeros(len(of), np.uint32),
        np.arange(4, dtype=np.uint64),
        lambda place: [shingled(of[place])],
    )
    # The third is like the first; the fourth is like the second, with which it is not compared.
    assert (found.later.tolist(), found.earlier.tolist()) == ([2], [0])
    of[2], of[3] = of[3], of[2]
    found = near_duplicates(
        lambda band: np.zeros(len(of), np.uint32),
        np.arange(4, dtype=np.uint64),
        lambda place: [shingled(of[place])],
    )
    assert (found.later.tolist(), found.earlier.tolist()) == ([2, 3], [1, 0])


def test_every_part_has_to_be_nearly_the_same():
    """A long prompt that two pairs share makes them no duplicates."""
    long = " ".join(f"word{number}" for number in range(400))
    pairs = [
        (long, "one answer that is", "a"),
        (long, "another one than that", "b"),
        (f"{long} x", "one answer that is", "a"),
    ]
    bands_of = np.array([bands(union(sketch(shingled(part)) for part in pair)) for pair in pairs])
    found = near_duplicates(
        lambda band: bands_of[:, band],
        np.arange(3, dtype=np.uint64),
        lambda place: [shingled(part) for part in pairs[place]],
    )
    assert (found.later.tolist(), found.earlier.tolist()) == ([2], [0])


def test_beyond_the_most_that_are_compared_it_says_that_there_may_be_more(monkeypatch):
    same = " ".join(f"word{number}" for number in range(40))
    of = [f"{same} {number}" for number in range(20)]
    assert search(of).complete
    monkeypatch.setattr(module, "MOST_COMPARED", 5)
    found = search(of)
    assert not found.complete
    assert 0 < len(found.later) < 19


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Quick fox.", ["the", "quick", "fox."]),
        ("北京是中国 city", ["北", "京", "是", "中", "国", "city"]),
        ("für Größe", ["für", "größe"]),
        ("", []),
        ("สวัส", list("สวัส")),
    ],
)
def test_words_are_characters_where_a_script_has_no_spaces(text, expected):
    assert words(text) == expected
