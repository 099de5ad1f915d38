"""What an epoch takes of several sources: exact counts, no pair twice before all have come, by seed alone."""

import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpotrain.core.errors import DataError
from dpotrain.data.batches.mixture import Mixture
from dpotrain.data.batches.plan import BatchPlan, Costs
from dpotrain.data.tokens.tokenized import TokenizedPairs
from dpotrain.recipe.mixture import SourceTable
from tests.engine.pairs import random_pairs
from tests.plugin.fakes import FakeSource


def table(**keys) -> SourceTable:
    source = FakeSource(FakeSource.Options(name="d"))
    return SourceTable.model_construct(
        **{"source": source, **SourceTable.model_construct(**keys).model_dump()}
    )


AMOUNT = st.one_of(
    st.fixed_dictionaries({"pairs": st.integers(1, 60)}),
    st.fixed_dictionaries({"fraction": st.floats(0.2, 3)}),
    st.fixed_dictionaries({"weight": st.floats(0.5, 4)}),
    st.just({}),
)
SOURCES = st.lists(st.tuples(st.integers(5, 40), AMOUNT), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(sources=SOURCES, seed=st.integers(0, 9), epochs=st.integers(1, 4), shuffle=st.booleans())
def test_an_epoch_has_exactly_so_many_and_no_pair_again_before_all_have_come(sources, seed, epochs, shuffle):
    sizes = [size for size, _ in sources]
    mixture = Mixture.of(sizes, [table(repeat=True, **amount) for _, amount in sources])
    orders = [mixture.order(seed, epoch, shuffle) for epoch in range(epochs)]
    first = np.cumsum([0, *sizes])
    for source, (size, count) in enumerate(zip(sizes, mixture.counts, strict=True)):
        mine = [order[(order >= first[source]) & (order < first[source + 1])] for order in orders]
        assert [len(each) for each in mine] == [count] * epochs
        times = collections.Counter(np.concatenate(mine).tolist())
        assert max(times.values()) - min([*times.values(), *[0] * (len(times) < size)]) <= 1
    assert np.flatnonzero(mixture.used(seed, epochs, shuffle)).tolist() == sorted(set(np.concatenate(orders)))


@settings(max_examples=40, deadline=None)
@given(sources=SOURCES, seed=st.integers(0, 9), data=st.data(), ranks=st.integers(1, 3))
def test_steps_are_the_same_for_any_ranks_and_after_a_resume(sources, seed, data, ranks):
    sizes = [size for size, _ in sources]
    mixture = Mixture.of(sizes, [table(repeat=True, **amount) for _, amount in sources])
    lengths = np.arange(5, 5 + sum(sizes))
    plans = [
        BatchPlan(mixture, Costs(lengths, lengths), seed, 7, 50 * each, epochs=2, ranks=each)
        for each in (1, ranks)
    ]
    one, two = ([step.pairs.tolist() for step in plan.steps()] for plan in plans)
    assert one == two
    assert sum(map(len, one)) == 2 * mixture.pairs
    after = data.draw(st.integers(0, plans[0].total_steps))
    assert [step.pairs.tolist() for step in plans[0].steps(after)] == one[after:]
    for step in plans[1].steps():
        dealt = [pair for rank in step.microbatches for batch in rank for pair in batch]
        assert sorted(dealt) == sorted(step.pairs.tolist())


def test_weights_are_proportions_until_a_source_is_used_up():
    sizes = (100, 40, 1000)
    tables = [table(weight=2.0), table(weight=1.0), table(weight=1.0)]
    assert Mixture.of(sizes, tables).counts == (80, 40, 40)
    tables[1] = table(weight=1.0, repeat=True)
    assert Mixture.of(sizes, tables).counts == (100, 50, 50)
    assert Mixture.of(sizes, [table(weight=weight, repeat=True) for weight in (2.0, 1.0, 1.0)]).counts == (
        2000, 1000, 1000,
    )  # fmt: skip
    # Amounts of their own are beside the proportions of the others.
    tables = [table(weight=2.0), table(weight=1.0), table(pairs=7), table(fraction=0.07), table()]
    assert Mixture.of((100, 40, 1000, 100, 3), tables).counts == (80, 40, 7, 7, 3)


def test_an_epoch_goes_on_where_the_one_before_stopped():
    mixture = Mixture((10, 4), (4, 4))
    taken = [
        set(mixture.order(3, epoch, True)[mixture.order(3, epoch, True) < 10].tolist()) for epoch in range(3)
    ]
    assert not taken[0] & taken[1]
    assert taken[0] | taken[1] | taken[2] == set(range(10))
    rows = [mixture.order(3, epoch, False).tolist() for epoch in range(3)]
    assert rows == [[0, 1, 2, 3, 10, 11, 12, 13], [4, 5, 6, 7, 10, 11, 12, 13], [8, 9, 0, 1, 10, 11, 12, 13]]


def test_sources_are_mixed_and_by_the_seed():
    mixture = Mixture((50, 50), (50, 25))
    order = mixture.order(1, 0, True)
    assert 0.2 < np.mean(order[:25] >= 50) < 0.5  # not one after the other
    assert order.tolist() != mixture.order(2, 0, True).tolist()
    assert order.tolist() == mixture.order(1, 0, True).tolist()


def test_all_of_one_source_is_its_permutation_by_seed_and_epoch():
    expected = np.random.Generator(np.random.PCG64([5, 1])).permutation(9)
    assert Mixture.single(9).order(5, 1, True).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("sizes", "tables", "message"),
    [
        ((5, 5), [table(), table(pairs=6, label="few")], r'\.1 \("few"\): pairs = 6, but it has 5 training'),
        ((5, 5), [table(), table(fraction=0.01)], r"its share of 5 training pairs is less than one pair"),
        ((5, 900), [table(weight=0.0001), table(weight=1.0)], r'data\.sources\.0 \("d"\): its share of 5'),
    ],
)  # fmt: skip
def test_more_than_there_is_and_nothing_at_all_are_refused(sizes, tables, message):
    with pytest.raises(DataError, match=message):
        Mixture.of(sizes, tables)


def test_the_report_keeps_it():
    mixture = Mixture((10, 4), (5, 8), ("a", "b"))
    assert Mixture.restored(mixture.as_json()) == mixture
    assert mixture.lines() == [
        "a: 5 of 10 training pairs, 38.5 % of an epoch",
        "b: 8 of 4 training pairs, each 2 times, 61.5 % of an epoch",
    ]
    assert Mixture.single(4).lines() == []


def test_tokens_of_sources_are_not_copied():
    parts = [random_pairs([(3, 4, 5), (2, 6, 1)]), random_pairs([(7, 1, 2)], seed=1)]
    joined = TokenizedPairs.joined(parts)
    for pairs in (joined, joined.select(np.array([2, 0]))):
        assert [id(store) for store in pairs.stores] == [id(part.stores[0]) for part in parts]
    assert np.shares_memory(joined[2].prompt, parts[1].stores[0].tokens)
    assert joined[2].prompt.tolist() == parts[1][0].prompt.tolist()
