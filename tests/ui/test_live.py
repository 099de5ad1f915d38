"""The live view of a real process on a real terminal, and what it gives back."""

import io
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console

from dpotrain.core.reporter import Reporter, Reporters
from dpotrain.run.folder.log import LoggedReporter
from dpotrain.ui import reporter
from dpotrain.ui.live import LiveReporter
from dpotrain.ui.plain import PlainReporter
from tests.ui.terminals import OnTerminal

#: A run that shows itself and then does what a test wants of it; its output is logged as that of a run is.
_RUN = """
import ctypes, logging, os, signal, sys, time
from pathlib import Path
from dpotrain.ui import reporter
from tests.ui.records import Clock, outcome, show_start, show_steps, step
signal.signal(signal.SIGINT, signal.default_int_handler)
clock = Clock()
def wait():
    while True:
        time.sleep(0.05)
def go():
    while not os.path.exists(sys.argv[2]):
        time.sleep(0.02)
def log_to(path):
    logging.basicConfig(filename=path, level=logging.INFO)
with reporter() as live:
    live.note("the first note")
    show_start(live, clock)
    show_steps(live, clock, last=20)
    exec(sys.argv[1])
    live.finished(outcome(Path("run")))
"""
FULL, SMALL = (80, 24), (60, 20)


@pytest.fixture
def go(tmp_path):
    """The file that lets the act of a run go on after ``go()``."""
    return tmp_path / "go"


@pytest.fixture
def run(go):
    def run(act: str = "wait()", size: tuple[int, int] = FULL) -> OnTerminal:
        return OnTerminal(_RUN, act, str(go), size=size)

    return run


@pytest.mark.parametrize("size", [FULL, SMALL])
def test_after_the_run_the_ordinary_screen_has_header_notes_and_summary(run, go, size):
    with run("go()", size) as terminal:
        terminal.until("step 20 of 470")
        assert (terminal.screen.alternate is not None) == (size == FULL)
        go.touch()
        assert terminal.end() == 0
        text = terminal.screen.text
        for needed in (
            "the first note",
            "HuggingFaceTB",
            "8 times that of the steps",
            "finished after 470 steps",
            "load it",
        ):
            assert text.count(needed) == 1, needed
        assert "step 20 of 470" not in text
        terminal.assert_given_back()


def test_a_small_terminal_keeps_a_few_lines_below_what_was_said(run):
    with run(size=SMALL) as terminal:
        text = terminal.until("step 20 of 470")
        assert text.index("the first note") < text.index("step 20 of 470")
        assert max(map(len, terminal.screen.lines)) <= 60


@pytest.mark.parametrize("size", [FULL, SMALL])
def test_a_new_size_leaves_no_stale_lines(run, size):
    with run(size=size) as terminal:
        terminal.until("step 20 of 470")
        width = size[0] - 15
        terminal.resize(width, size[1] - 2)
        seen = len(terminal.raw)
        terminal.until(lambda text: "step 20 of 470" in terminal.raw[seen:])
        seen = len(terminal.raw)
        terminal.until(lambda text: "step 21" in terminal.raw[seen:])
        text = terminal.screen.text
        assert text.count("step 20 of 470") == 1
        assert sum(line.startswith("training") for line in terminal.screen.lines) == 1
        assert max(map(len, terminal.screen.lines)) <= width


@pytest.mark.parametrize("size", [FULL, pytest.param(SMALL, marks=pytest.mark.soak)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_gives_the_terminal_back(run, number, size):
    with run(size=size) as terminal:
        terminal.until("step 20 of 470")
        # Python loses an interrupt that arrives inside a weak reference's callback; a person presses again.
        for _ in range(20):
            terminal.signal(number)
            for _ in range(30):
                terminal.read()
                if not terminal.runs():
                    break
            else:
                continue
            break
        terminal.end()
        terminal.assert_given_back()


@pytest.mark.parametrize(
    "act",
    [
        "raise RuntimeError('broken')",
        "os._exit(3)",
        "os.kill(os.getpid(), signal.SIGKILL)",
        "os.abort()",
        "sys.exit(1)",
    ],
)
@pytest.mark.parametrize("size", [FULL, pytest.param(SMALL, marks=pytest.mark.soak)])
def test_every_way_out_gives_the_terminal_back(run, go, act, size):
    with run(f"go(); {act}", size) as terminal:
        terminal.until("step 20 of 470")
        go.touch()
        terminal.end()
        terminal.assert_given_back()


def test_a_crash_in_c_shows_its_message_on_the_ordinary_screen(run, go):
    act = "go(); os.write(2, b'terminate called after throwing c10::Error\\n'); ctypes.string_at(0)"
    with run(act) as terminal:
        terminal.until("step 20 of 470")
        go.touch()
        assert terminal.end() == -signal.SIGSEGV
        assert "terminate called after throwing c10::Error" in terminal.screen.text
        terminal.assert_given_back()


def test_the_traceback_of_an_error_comes_after_the_view(run):
    with run("raise RuntimeError('broken')") as terminal:
        assert terminal.end() == 1
        assert terminal.screen.text.rstrip().endswith("RuntimeError: broken")


@pytest.mark.parametrize("size", [FULL, SMALL])
def test_suspended_and_continued(run, size):
    with run(size=size) as terminal:
        terminal.until("step 20 of 470")
        terminal.press("\x1a")
        terminal.until(lambda _: terminal.is_stopped())
        terminal.read()
        terminal.assert_given_back()
        assert "step 20 of 470" not in terminal.screen.text
        terminal.signal(signal.SIGCONT)
        terminal.until("step 20 of 470")
        assert (terminal.screen.alternate is not None) == (size == FULL)
        assert not terminal.screen.cursor
        terminal.press("?" if size == FULL else "q")
        terminal.until("suspend; fg goes on" if size == FULL else "Stop the run?")


def test_a_process_that_runs_no_python_can_be_ended_by_its_key(run, go):
    with run("go(); ctypes.PyDLL(None).pause()") as terminal:  # holds the lock of the interpreter
        terminal.until("step 20 of 470")
        go.touch()
        terminal.press("\x1c")
        assert terminal.end() == -signal.SIGQUIT
        terminal.assert_given_back()


def test_keys_ask_the_run_and_their_letters_are_not_echoed(run):
    act = (
        "controls = live.state.controls\n"
        "while not controls.stopping: time.sleep(0.05)\n"
        "print('took', controls.take())"
    )
    with run(act) as terminal:
        terminal.until("step 20 of 470")
        terminal.press("s")
        terminal.until("a checkpoint was asked for")
        terminal.press("qy")
        assert terminal.end() == 0
        assert "took (True, False)" in terminal.screen.text


@pytest.mark.parametrize("size", [FULL, SMALL])
def test_nothing_that_libraries_write_runs_through_the_picture(run, size, tmp_path):
    noise = (
        f"log_to({str(tmp_path / 'log')!r}); os.write(2, b'C code complains\\n'); print('a plugin prints');"
        "os.system('echo a child says >&2'); wait()"
    )
    with run(noise, size) as terminal:
        terminal.until("step 20 of 470")
        while not (tmp_path / "log").exists() or "a child says" not in (tmp_path / "log").read_text():
            terminal.read()
        text = (tmp_path / "log").read_text()
        for line in ("C code complains", "a plugin prints", "a child says"):
            assert f"INFO:dpotrain.output:{line}\n" in text
            assert line not in terminal.raw


def test_what_libraries_write_before_there_is_a_log_is_shown_at_the_end(run):
    with run("os.write(2, b'an early warning\\n'); time.sleep(0.3)") as terminal:
        terminal.end()
        assert "an early warning" in terminal.screen.text


def test_a_view_that_fails_does_not_end_the_run(run):
    act = (
        "live.state.pace.total_steps = 'none'\n"
        "while 'the view failed' not in live.state.lines[-1].text: time.sleep(0.02)"
    )
    with run(act) as terminal:
        assert terminal.end() == 0
        assert "the view failed, and the run went on without it" in terminal.screen.text
        assert "finished after 470 steps" in terminal.screen.text
        terminal.assert_given_back()


def test_a_terminal_that_goes_away_does_not_end_the_run(run, go, tmp_path):
    done = tmp_path / "done"
    act = (
        "signal.signal(signal.SIGHUP, signal.SIG_IGN); go(); live.note('x'); time.sleep(1)\n"
        f"Path({str(done)!r}).touch()"
    )
    with run(act) as terminal:
        terminal.until("step 20 of 470")
        terminal.hang_up()
        go.touch()
        deadline = time.monotonic() + 60
        while not done.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_terminal_gets_the_live_view_and_everything_else_plain_lines():
    code = "import sys; from dpotrain.ui import reporter; print(type(reporter(plain='plain' in sys.argv)).__name__)"
    for arguments, more, name in (
        ([], {}, "LiveReporter"),
        (["plain"], {}, "PlainReporter"),
        ([], {"TERM": "dumb"}, "PlainReporter"),
        ([], {"PYTHONIOENCODING": "ascii"}, "PlainReporter"),
    ):
        with OnTerminal(code, *arguments, **more) as terminal:
            assert terminal.end() == 0
            assert terminal.screen.text.strip() == name
    assert isinstance(reporter(Console(file=io.StringIO(), force_terminal=False)), PlainReporter)


@pytest.mark.parametrize("shows", [LoggedReporter, Reporters])
def test_a_reporter_defines_every_method_of_the_base(shows):
    assert {name for name in vars(Reporter) if not name.startswith("_")} <= vars(shows).keys()


def test_the_live_view_defines_every_method_of_the_base():
    own = {name for each in LiveReporter.__mro__ if each is not Reporter for name in vars(each)}
    assert {name for name in vars(Reporter) if not name.startswith("_")} <= own


def test_the_terminal_code_imports_nothing_heavy():
    code = (
        "import sys, dpotrain.ui, dpotrain.ui.live, dpotrain.ui.plain, dpotrain.ui.errors\n"
        "import dpotrain.ui.plugins_table\n"
        "print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
