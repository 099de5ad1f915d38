"""Sizes of terminals: 0 columns count as not set, and few columns cut no number and no message."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from dpotrain.core.records import CheckpointRecord
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.report.inventory import Entry
from dpotrain.ui.checkpoints_table import checkpoints_table
from dpotrain.ui.console import open_console
from dpotrain.ui.errors import print_error
from dpotrain.ui.plugins_table import print_plugins
from dpotrain.ui.state import Tracker
from dpotrain.ui.summary import summary
from dpotrain.ui.view import picture
from tests.ui.records import FIRST, LAST, Clock, outcome, step
from tests.ui.terminals import OnTerminal
from tests.ui.test_plan import shown

ROOT = Path(__file__).parents[2]
WIDTHS = range(20, 82, 3)


@pytest.mark.parametrize("value", ["0", "00", "", "many", None])
def test_no_columns_are_taken_for_unset(value, monkeypatch, capsys):
    for name in ("COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert open_console().width >= 20
    assert open_console().height >= 10
    print_error(ValueError("the message"))
    assert capsys.readouterr().err == "error: the message\n"


def test_columns_that_are_set_hold(monkeypatch):
    monkeypatch.setenv("COLUMNS", "33")
    assert open_console(stderr=True).width == 33


def test_one_place_opens_the_terminal():
    opened = [
        path.relative_to(ROOT).as_posix()
        for folder in ("dpotrain", "plugins")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"\bConsole\((stderr=\w+)?\)", path.read_text(encoding="utf-8"))
    ]
    assert opened == [], "open_console() knows what a size of 0 means"


@pytest.mark.parametrize("command", ["check", "run"])
def test_an_error_is_shown_in_files_too(command, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('run.output_dir = "r"\nmodel.use = "demo"\ndata.use = "demo"\nloss.use = "dpo"\n')
    done = subprocess.run(
        [sys.executable, "-m", "dpotrain", command, str(recipe), "--set", "optimizer.lrr=1"],
        env={**os.environ, "COLUMNS": "0"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert 'has no option "lrr"; did you mean "lr"?' in done.stderr


_RUN = """
from pathlib import Path
from dpotrain.ui import reporter
from tests.ui.records import outcome, step
with reporter() as live:
    live.started("recipe.toml", {"model": "tiny"})
    live.step(step(1))
    live.finished(outcome(Path("run")))
"""


def test_a_terminal_without_columns_shows_the_run_and_its_summary():
    with OnTerminal(_RUN, size=(0, 0), COLUMNS="0", LINES="0") as terminal:
        terminal.screen.width = 80
        assert terminal.end() == 0
        text = plain(terminal.raw)
    for needed in ("recipe.toml", "finished after 470 steps", "0.5431", "load it"):
        assert needed in text


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", text)


def numbers(text: str) -> set[str]:
    """Return what a person reads as one number or time, with its sign, fraction and exponent."""
    return set(re.findall(r"[+-]?\d[\d/,.:e+-]*(?<=\d)", plain(text)))


def at(width: int, renderable: object, **options: object) -> str:
    file = io.StringIO()
    console = Console(
        file=file, width=width, height=200, force_terminal=True, color_system=None, legacy_windows=False,
        _environ={"TERM": "xterm"},
    )  # fmt: skip
    console.print(renderable, **options)
    return file.getvalue()


def test_no_width_cuts_the_summary(tmp_path):
    table = {
        "columns": ["prompt", "margin"],
        "rows": [["a very long prompt", -7.334e-05], ["b", "12,345,678.5"]],
    }
    ended = outcome(tmp_path, sections={"by prompt": {"count": 12345, "table": table}})
    whole = numbers(at(200, summary(ended), crop=False))
    assert "-7.334e-05" in whole
    for width in WIDTHS:
        text = at(width, summary(ended), crop=False)
        assert whole <= numbers(text), width
        assert "…" not in text


def test_no_width_cuts_plans_and_checkpoints(tmp_path):
    entries = [
        Entry(
            step=number,
            path=tmp_path,
            saved=1.7e9,
            bytes=10**10 * number,
            fault="",
            resumes=number == 2,
            best=True,
        )
        for number in (1, 2)
    ]
    for table in (lambda width: at(width, checkpoints_table(tmp_path, entries), soft_wrap=True), shown):
        whole = numbers(table(200))
        for width in WIDTHS:
            assert whole <= numbers(table(width)), width
            assert "…" not in table(width)


def test_no_width_cuts_the_list_of_plugins():
    infos = PluginManager.from_entry_points().infos()
    for width in (30, 80, 200):
        file = io.StringIO()
        print_plugins(infos, Console(file=file, width=width, force_terminal=True, color_system=None))
        assert "…" not in file.getvalue()
        for info in infos:
            assert info.name in file.getvalue()


def test_no_width_cuts_a_number_of_line_mode():
    clock = Clock()
    tracker = Tracker(clock)
    tracker.logged(FIRST)
    for number in range(1, 9):
        clock.sleep(2)
        tracker.step(step(number, total=32, loss=0.7 - 0.01 * number))
    tracker.logged(LAST)
    tracker.checkpoint(CheckpointRecord(8, Path("runs/x")))
    tracker.microbatch(9, 3, 8)
    figures = {
        "8",
        "32",
        "0.6550",
        "75.0",
        "+0.5000",
        "5.0e-07",
        "500",
        "3.1",
        "0.5431",
        "65.0",
        "+0.5500",
        "200",
    }
    for width in WIDTHS:
        lines = [line.plain for line in picture(tracker.state, clock(), width)]
        assert figures <= numbers("\n".join(lines)), width
        assert max(map(len, lines)) <= width
        assert "48s left" in " ".join(lines), width
