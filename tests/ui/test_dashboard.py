import re

import pytest
from rich.cells import cell_len

from dpotrain.core.records import Record
from dpotrain.ui.dashboard import HELP, Screen, dashboard
from dpotrain.ui.state import Tracker
from tests.ui.records import Clock, metrics, show_start, show_steps, step

SIZES = [(120, 40), (80, 24), (60, 20)]


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def tracker(clock):
    return Tracker(clock, evaluate_every=100)


@pytest.fixture
def shown(tracker, clock):
    def shown(width: int = 80, height: int = 24, **screen: object) -> str:
        block = dashboard(tracker.state, Screen(**screen), clock(), width, height)
        return "\n".join(line.plain.rstrip() for line in block) + "\n"

    return shown


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_first_seconds(tracker, clock, shown, snapshot, width, height):
    with tracker.phase("importing torch and transformers", None):
        clock.sleep(1)
        assert re.fullmatch(
            r"importing torch and transformers ─*━━━─* 1.0s", shown(width, height).splitlines()[1]
        )
    with tracker.phase("tokenizing", 2000) as advance:
        advance(500)
        clock.sleep(3)
        snapshot(f"dashboard_loading_{width}.txt", shown(width, height))


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_first_step(tracker, clock, shown, snapshot, width, height):
    show_start(tracker, clock)
    tracker.microbatch(1, 0, 8)
    clock.sleep(20)
    tracker.microbatch(1, 3, 8)
    snapshot(f"dashboard_first_step_{width}.txt", shown(width, height))


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_training(tracker, clock, shown, snapshot, width, height):
    show_start(tracker, clock)
    show_steps(tracker, clock)
    snapshot(f"dashboard_training_{width}.txt", shown(width, height))


def test_an_evaluation_is_a_phase_with_the_time_left(tracker, clock, shown):
    show_start(tracker, clock)
    show_steps(tracker, clock, last=3)
    with tracker.phase("evaluating", 1000) as advance:
        clock.sleep(3)
        advance(250)
        assert re.search(r"^evaluating ━+─+ 250 of 1,000, 9.0s left$", shown(), re.MULTILINE)
    assert "evaluating ━" not in shown()


@pytest.mark.parametrize("width", [20, 40, 60, 79, 80, 100, 120, 200, 300])
@pytest.mark.parametrize("height", [1, 3, 8, 15, 24, 40, 100])
def test_the_picture_has_the_size_of_the_terminal(tracker, clock, width, height):
    show_start(tracker, clock)
    for last in (0, 60):
        if last:
            show_steps(tracker, clock, last=last)
        for page in ("charts", "samples", "notes", "run", "help"):
            block = dashboard(tracker.state, Screen(page=page), clock(), width, height)
            assert len(block) == height
            assert max(cell_len(line.plain) for line in block) <= width
            assert not any("\n" in line.plain for line in block)


def test_a_larger_terminal_shows_more_charts_and_a_key_the_others(tracker, clock, shown):
    show_start(tracker, clock)
    show_steps(tracker, clock)

    def titles(text: str) -> set[str]:
        names = (
            "loss",
            "margin",
            "accuracy",
            "rewards",
            "gradient norm",
            "learning rate",
            "peak memory",
            "tokens/s",
        )
        return {name for name in names if re.search(rf"(^|  ){name}  [─◆]", text, re.MULTILINE)}

    small, large = titles(shown(80, 24)), titles(shown(120, 40))
    assert small == {"loss", "margin", "accuracy", "rewards"}
    assert len(large) == 8
    assert small | titles(shown(80, 24, turn=1)) == large
    assert titles(shown(80, 24, turn=2)) == small


def test_an_accuracy_has_its_interval_where_the_number_of_pairs_is_known(tracker, clock, shown):
    show_start(tracker, clock)
    show_steps(tracker, clock)
    assert "accuracy 65.0 % [55.3, 73.6] (+15.0)" in shown(120, 40)


def test_samples_before_training_stand_beside_those_now(tracker, clock, shown):
    show_start(tracker, clock)
    show_steps(tracker, clock)
    text = shown(120, 40, page="samples")
    assert "samples at step 200  before: step 0" in text
    assert re.search(
        r"prompt What is 0\+0\?\nbefore The answer is zero, since 0 and 0 are 0.\nnow    0.\n", text
    )
    assert "before (empty)\nnow    An old pond" in text


def test_the_other_pages(tracker, clock, shown):
    assert "no samples yet" in shown(page="samples")
    assert "nothing was noted" in shown(page="notes")
    show_start(tracker, clock)
    show_steps(tracker, clock, last=2)
    assert "data      12,000 pairs" in shown(page="run")
    assert "! the loss of step 130 is 8 times" in shown(page="notes")
    help_page = shown(page="help")
    assert all(text in help_page for _, text in HELP)


def test_control_characters_of_the_data_do_not_reach_the_terminal(tracker, clock, shown):
    tracker.started("re\x1b[2Jcipe", {"mo\x1bdel": "\x1b]0;title\x07"}, 3)
    tracker.note("a\x1b[31mnote")
    assert "\x1b" not in shown() + shown(page="notes") + shown(page="run")


def test_the_last_line_says_what_keys_do_asks_and_says_that_the_run_stops(tracker, clock, shown):
    assert "s save" not in shown(), "nothing can be asked of a run that has not said so"
    show_start(tracker, clock)
    assert shown().splitlines()[-1].startswith("s save  e evaluate  q stop")
    assert shown(asks="Stop the run?").splitlines()[-1] == "Stop the run?"
    assert "keys are off" in shown(keys=False)
    tracker.state.controls.stop("SIGTERM")
    assert shown().splitlines()[-1] == "stopping (SIGTERM): the state is saved first"


def test_a_recipe_metric_or_a_number_that_is_none_breaks_nothing(tracker, clock, shown):
    tracker.step(step(1, loss=float("nan"), **{"length/chosen": 3.0}))
    tracker.logged(Record("eval", 1, metrics(loss=float("inf"))))
    assert "loss" in shown()
