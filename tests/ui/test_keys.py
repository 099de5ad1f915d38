import pytest

from dpotrain.core.controls import Controls
from dpotrain.ui.dashboard import Screen
from dpotrain.ui.keys import pressed
from dpotrain.ui.state import ViewState


@pytest.fixture
def screen():
    return Screen()


@pytest.fixture
def state():
    return ViewState(begun=0.0, controls=Controls())


def test_save_and_evaluate_ask_the_run_and_say_so(screen, state):
    pressed(b"s", screen, state)
    assert state.controls.take() == (True, False)
    pressed(b"e", screen, state)
    assert state.controls.take() == (False, True)
    assert [line.text.split(":")[0] for line in state.lines] == [
        "a checkpoint was asked for",
        "an evaluation was asked for",
    ]


@pytest.mark.parametrize(
    ("first", "second", "stops"), [("q", "y", True), ("x", "x", True), ("q", "n", False), ("q", "s", False)]
)
def test_stopping_asks_first(screen, state, first, second, stops):
    pressed(first.encode(), screen, state)
    assert "Stop the run?" in screen.asks
    assert not state.controls.stopping
    pressed(second.encode(), screen, state)
    assert not screen.asks
    assert state.controls.stopping is stops
    assert state.controls.take() == (False, False), "the answer is no other request"


def test_pages_and_charts(screen, state):
    for key, page in (("t", "samples"), ("n", "notes"), ("r", "run"), ("?", "help"), ("\x1b", "charts")):
        pressed(key.encode(), screen, state)
        assert screen.page == page
    pressed(b"n", screen, state)
    pressed(b"n", screen, state)
    assert screen.page == "charts"
    pressed(b"p\t", screen, state)
    assert screen.turn == 2


def test_arrows_and_other_sequences_ask_for_nothing(screen, state):
    assert pressed(b"\x1b[A", screen, state) == []
    assert pressed(b"\x1b[15~", screen, state) == []
    assert pressed("é\xff".encode("latin-1"), screen, state) == []
    assert state.controls.take() == (False, False)
    assert screen == Screen()


def test_where_nothing_can_be_asked_keys_only_turn_pages(screen):
    state = ViewState(begun=0.0)
    pressed(b"seqy", screen, state)
    assert screen == Screen()


def test_suspending_is_left_to_the_owner_of_the_terminal(screen, state):
    assert pressed(b"\x1a", screen, state) == ["suspend"]
