import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from dpotrain.core.records import CheckpointRecord, Record
from dpotrain.core.reporter import Reporter
from dpotrain.run.folder.log import LoggedReporter
from dpotrain.ui import reporter
from dpotrain.ui.judgement import CHOSEN_REWARDS_FALL
from dpotrain.ui.live import LiveReporter
from dpotrain.ui.plain import PlainReporter
from tests.ui.records import FIRST, LAST, Clock, metrics, outcome, step

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


def _console(width: int = 80) -> Console:
    return Console(
        file=io.StringIO(),
        width=width,
        height=40,
        force_terminal=True,
        color_system=None,
        legacy_windows=False,
        _environ={"TERM": "xterm"},
    )


def _written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _plain_text(text: str) -> str:
    return re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", text).replace("\r", "")


def _seen(live: LiveReporter, width: int = 80) -> list[str]:
    """Return what the live region shows, line by line."""
    console = _console(width)
    console.print(live)
    return [line.rstrip() for line in _plain_text(_written(console)).splitlines()]


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def live(clock):
    return LiveReporter(_console(), clock, redraws=False)


def _fill(live: LiveReporter, clock: Clock) -> None:
    live.logged(FIRST)
    for number in range(1, 9):
        clock.sleep(2)
        live.step(step(number, total=32, loss=0.7 - 0.01 * number))
    live.logged(LAST)
    live.checkpoint(CheckpointRecord(8, Path("runs/x/checkpoints/step-00000008")))


def test_the_picture_of_a_run_at_80_columns(live, clock):
    _fill(live, clock)
    assert _seen(live) == [
        "training ━━━━━━━━╸                          8/32  epoch 0.25  16s gone  48s left",
        "  loss           0.6550    learning rate      5.0e-07",
        "  accuracy       75.0 %    grad norm           1.2500",
        "  margin        +0.5000    pairs/s                4.0",
        "  chosen        -0.2500    tokens/s               500",
        "  rejected      -0.7500    peak memory         3.1 GB",
        "  loss so far  █▇▆▅▄▃▂▁",
        "  mean of the last 8 steps",
        "evaluation at step 200, and the change since the first",
        "  loss           0.5431       -0.1500",
        "  accuracy       65.0 %  +15.0 points",
        "  margin        +0.5500       +0.5500",
        CHOSEN_REWARDS_FALL,
        "checkpoint at step 8",
    ]


@pytest.mark.parametrize("width", [28, 40, 60, 64, 79, 120, 200])
def test_the_picture_fits_any_width(live, clock, width):
    _fill(live, clock)
    with live.phase("reference log-probs", 12_345) as advance:
        advance(3)
        lines = _seen(live, width)
    assert max(cell_len(line) for line in lines) <= width
    text = "\n".join(lines)
    for needed in ("train", "0.6550", "75.0 %", "pairs/s", "0.5431"):
        assert needed in text


def test_the_first_evaluation_has_no_change_to_show(live, clock):
    live.logged(FIRST)
    live.step(step(1))
    lines = _seen(live)
    assert "evaluation at step 0" in lines
    assert not any("points" in line or "normal" in line for line in lines)


def test_a_phase_shows_a_bar_and_the_time_left(live, clock):
    with live.phase("tokenizing", 2000) as advance:
        advance(500)
        clock.sleep(3)
        (line,) = _seen(live)
        assert line.startswith("tokenizing ━")
        assert line.endswith(" 500/2,000  9.0s left")
    assert _seen(live) == []


def test_a_phase_of_unknown_length_shows_the_time_gone(live, clock):
    with live.phase("loading the model", None):
        clock.sleep(3)
        assert _seen(live)[0].split() == ["loading", "the", "model", "3.0s", "gone"]


def test_what_stays_is_printed_above(live, clock):
    with live:
        live.started("recipe.toml", {"model": "tiny [bold]", "trained": "1,234 parameters"})
        with live.phase("tokenizing", 20) as advance:
            advance(20)
            clock.sleep(2)
        live.note("a note")
        live.warn("a warning")
    text = _plain_text(_written(live._console))
    assert "─ recipe.toml ─" in text
    assert "model    tiny [bold]" in text
    assert "✓ tokenizing 20 in 2.0s" in text
    assert "\na note" in text
    assert "warning: a warning" in text


def test_a_command_in_a_note_is_not_broken(live):
    command = "wandb sync --id abcdefgh " + "/folder" * 20
    with live:
        live.note(command)
        live.warn(command)
    assert _plain_text(_written(live._console)).count(command) == 2


def test_an_evaluation_between_steps_leaves_no_line_behind(live):
    live.step(step(1))
    with live.phase("evaluation", 20) as advance:
        advance(20)
    assert _written(live._console) == ""


def test_a_train_record_brings_what_steps_do_not_carry(live):
    live.step(step(10))
    live.logged(Record("train", 10, metrics(peak_memory_mb=9999.0)))
    assert any(line.endswith("peak memory         9.8 GB") for line in _seen(live))


def test_a_step_draws_nothing_by_itself(live):
    with live:
        before = _written(live._console)
        for number in range(1, 100):
            live.step(step(number))
        assert _written(live._console) == before
        live.refresh()
        assert "99/470" in _written(live._console)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_view_takes_itself_down_whatever_happens(live, error):
    before = sys.stdout, sys.stderr

    def run() -> None:
        with live, live.phase("tokenizing", 3):
            assert _written(live._console).count(HIDE) == 1
            raise error

    with pytest.raises(error):
        run()
    assert _written(live._console).count(SHOW) == 1
    assert (sys.stdout, sys.stderr) == before
    assert _seen(live) == []


def test_the_closing_summary_takes_the_place_of_the_view(live, clock, tmp_path):
    with live:
        _fill(live, clock)
        live.refresh()
        live.finished(outcome(tmp_path))
    text = _written(live._console)
    assert text.index(SHOW) < text.index("finished after 470 steps")
    assert str(tmp_path / "final") in text


def test_a_terminal_that_goes_away_does_not_end_the_run(tmp_path):
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    console = Console(file=Gone(), width=80, force_terminal=True, _environ={"TERM": "xterm"})
    with LiveReporter(console, redraws=False) as live:
        live.started("recipe.toml", {"model": "tiny"})
        live.note("hello")
        live.step(step(1))
        live.refresh()
        live.finished(outcome(tmp_path))


def test_a_terminal_gets_the_live_view_and_everything_else_plain_lines():
    def picked(**settings: object) -> Reporter:
        environment = {"TERM": str(settings.pop("term", "xterm"))}
        return reporter(Console(file=io.StringIO(), _environ=environment, **settings))

    assert isinstance(picked(force_terminal=True), LiveReporter)
    assert isinstance(picked(force_terminal=False), PlainReporter)
    assert isinstance(picked(force_terminal=True, term="dumb"), PlainReporter)


@pytest.mark.parametrize("shows", [LiveReporter, PlainReporter, LoggedReporter])
def test_a_reporter_defines_every_method_of_the_base(shows):
    assert {name for name in vars(Reporter) if not name.startswith("_")} <= vars(shows).keys()


_RUN = """
import signal, sys, time
from dpotrain.ui import reporter
from tests.ui.records import step
signal.signal(signal.SIGINT, signal.default_int_handler)
with reporter() as live:
    live.started("recipe.toml", {"model": "tiny"})
    live.step(step(1))
    print("READY", flush=True)
    time.sleep(60)
"""


def test_ctrl_c_on_a_real_terminal_gives_the_cursor_back():
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", _RUN],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24", "PYTHONIOENCODING": "utf-8"},
    )
    os.close(follower)
    output = b""
    try:
        deadline = time.monotonic() + 60
        while b"READY" not in output and time.monotonic() < deadline:
            output += os.read(leader, 65536)
        pressed = 0.0
        while time.monotonic() < deadline:
            # Python loses an interrupt that arrives inside a weak reference's callback; a person presses again.
            if time.monotonic() - pressed > 3:
                process.send_signal(signal.SIGINT)
                pressed = time.monotonic()
            if not select.select([leader], [], [], 0.5)[0]:
                continue
            try:
                chunk = os.read(leader, 65536)
            except OSError:  # how Linux says that the other end is closed
                break
            output += chunk
    finally:
        process.kill()
        process.wait()
        os.close(leader)
    text = output.decode(errors="replace")
    assert "recipe.toml" in text
    assert HIDE in text
    assert text.rindex(SHOW) > text.rindex(HIDE)
    assert "KeyboardInterrupt" in text[text.rindex(SHOW) :], "the traceback comes after the view is down"


def test_the_terminal_code_imports_nothing_heavy():
    code = (
        "import sys, dpotrain.ui, dpotrain.ui.live, dpotrain.ui.plain, dpotrain.ui.errors\n"
        "import dpotrain.ui.plugins_table\n"
        "print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
