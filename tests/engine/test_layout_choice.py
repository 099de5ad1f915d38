"""Which layout "auto" chooses, and why: a pure function of what each layout needs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpotrain.engine.memory.choice import Choice, Need, Wanted, choose_layout
from dpotrain.engine.memory.layout import Layout

GB = 2**30


def chosen(
    available: float, devices: int = 8, machine: int = 8, whole: int = 160, cannot: str = "", **wanted
) -> Choice:
    """Choose for a model that takes so many GB, of which all but 10 are sharded."""

    def need(layout: Layout) -> Need:
        takes = 10 + (whole - 10) / (layout.shards or 1)
        return Need(int(takes * GB), int(available * GB), takes <= available)

    return choose_layout(
        Wanted(**wanted), devices, machine=machine, device="cuda", cannot_shard=lambda: cannot, need=need
    )


def test_weights_are_replicated_where_they_fit():
    found = chosen(192)
    assert found.layout == Layout(8)
    assert (
        found.reason == "weights are replicated, which takes at least 160.0 GB of the 192.0 GB of each device"
    )


def test_weights_are_sharded_where_they_do_not():
    found = chosen(80)
    assert found.layout == Layout(8, 8)
    assert found.reason == (
        "weights are sharded over all devices: replicated they take 160.0 GB of the 80.0 GB of each device, "
        "sharded 28.8 GB"
    )


def test_one_machine_holds_a_copy_where_that_is_enough():
    assert chosen(80, devices=32).layout == Layout(32, 8)
    assert "groups of 8 devices" in chosen(80, devices=32).reason
    assert chosen(20, devices=32).layout == Layout(32, 32)
    # Machines of one device, and a number of devices that machines do not divide, have no such groups.
    assert chosen(80, devices=4, machine=1).layout == Layout(4, 4)
    assert chosen(80, devices=12, machine=8).layout == Layout(12, 12)


def test_what_fits_in_no_layout_is_sharded_as_far_as_it_goes_and_says_so():
    found = chosen(12)
    assert found.layout == Layout(8, 8)
    assert found.reason.endswith("sharded 28.8 GB, which is too much, too")


def test_what_cannot_be_sharded_is_not_and_says_why():
    found = chosen(80, cannot='the optimizer "muon" needs whole weights')
    assert found.layout == Layout(8)
    assert found.reason.endswith('GB of each device: the optimizer "muon" needs whole weights')


def test_what_the_recipe_says_holds():
    assert chosen(500, shard="all") == Choice(Layout(8, 8), "")
    assert chosen(500, shard="all", group=4, context=2, offload=True) == Choice(Layout(8, 4, 2, True), "")
    assert chosen(1, shard="none", context=2) == Choice(Layout(8, context=2), "")
    assert chosen(80, group=4, context=2).layout == Layout(8, 4, 2)
    assert chosen(1, devices=1, shard="all", group=4).layout == Layout(1)


def test_one_device_and_cpus_are_not_looked_at():
    def need(layout: Layout) -> Need:
        raise AssertionError

    for devices, device in ((1, "cuda"), (4, "cpu")):
        found = choose_layout(Wanted(), devices, machine=4, device=device, cannot_shard=str, need=need)
        assert found == Choice(Layout(devices), "")
    # Whose shards are in the host's memory anyway.
    wanted = Wanted("all", offload=True)
    found = choose_layout(wanted, 4, machine=4, device="cpu", cannot_shard=str, need=need)
    assert found == Choice(Layout(4, 4), "")


@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(11, 400),
    st.sampled_from([1, 2, 4, 8, 16, 64]),
    st.sampled_from([1, 2, 4, 8]),
)
def test_the_same_arguments_give_the_same_choice_and_more_memory_never_more_shards(
    less, more, whole, devices, machine
):
    less, more = sorted((less, more))
    of_less, of_more = (chosen(each, devices, machine, whole) for each in (less, more))
    assert of_less == chosen(less, devices, machine, whole)
    assert (of_more.layout.shards or 1) <= (of_less.layout.shards or 1)
    assert devices % (of_less.layout.shards or 1) == 0


@pytest.mark.parametrize(
    ("layout", "text"),
    [
        (Layout(8), "replicated"),
        (Layout(8, 8), "sharded over all 8"),
        (Layout(8, 4, 2), "sharded over groups of 4, context of 2"),
        (Layout(8, 8, offload=True), "sharded over all 8, shards in the host's memory"),
    ],
)
def test_a_layout_has_a_name(layout, text):
    assert str(layout) == text
