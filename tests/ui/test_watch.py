"""Watching a run from its folder: while it goes on, at its end, and when it was killed."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console

from dpotrain.core.errors import RecipeError, RunError
from dpotrain.core.records import Record
from dpotrain.report.following import Follower, Status
from dpotrain.run.folder.metrics_file import MetricsFile
from dpotrain.ui.state import Tracker
from dpotrain.ui.watch import RemoteControls, take, watch
from tests.cli.test_main import HEAVY, imported_by
from tests.run.recipes import project
from tests.support import dpotrain
from tests.ui.records import FIRST, LAST, metrics
from tests.ui.terminals import ROOT, OnTerminal

NOW = 1_800_000_000.0


@pytest.fixture
def folder(tmp_path):
    """A run that this process seems to be in the middle of."""
    run = tmp_path / "run"
    (run / "checkpoints" / "step-00000100").mkdir(parents=True)
    (run / "recipe.toml").write_text("")
    status(run)
    for record in (FIRST, Record("train", 100, metrics()), Record("train", 120, metrics(loss=0.5)), LAST):
        MetricsFile(run / "metrics.jsonl").write(record)
    samples = [{"step": at, "samples": [{"prompt": "Hi", "answer": f"Hello {at}"}]} for at in (0, 200)]
    (run / "samples.jsonl").write_text("".join(json.dumps(each) + "\n" for each in samples))
    (run / "run.log").write_text(
        "2026-01-01 10:00:00,123 INFO dpotrain: tokenizing (800)\n"
        "2026-01-01 10:00:00,124 WARNING dpotrain: the loss of step 7 jumps\nlook at it\n"
        "2026-01-01 10:00:00,125 WARNING py.warnings: some library\n"
    )
    return run


def status(run, **changes: object) -> None:
    values = {
        "state": "running", "pid": os.getpid(), "host": os.uname().nodename, "title": "recipe.toml",
        "info": {"model": "tiny"}, "began": time.time() - 100, "updated": time.time(), "phases": [], "step": 200,
        "total_steps": 470, "epoch": 0.4, "microbatch": [201, 3, 8], "step_began": time.time() - 1,
        "step_seconds": 2.0, "seconds_left": 600.0, "takes_requests": True,
    }  # fmt: skip
    (run / "status.json").write_text(json.dumps(values | changes))


def seen(run, width: int = 120, *, terminal: bool = False, **options: object) -> str:
    console = Console(
        file=io.StringIO(),
        width=width,
        height=40,
        force_terminal=terminal,
        color_system=None,
        _environ={"TERM": "xterm"},
    )
    watch(run, console=console, once=True, **options)
    return console.file.getvalue()


def test_the_view_from_the_folder_is_that_of_the_run(folder):
    tracker = Tracker(time.time)
    take(Follower(folder).look(), tracker)
    state = tracker.state
    assert (state.title, state.info, state.epoch) == ("recipe.toml", {"model": "tiny"}, 0.4)
    assert (state.pace.step, state.pace.total_steps, state.checkpoint_step) == (200, 470, 100)
    assert (state.microbatches.step, state.microbatches.done, state.microbatches.total) == (201, 3, 8)
    assert state.seconds_left(time.time()) == pytest.approx(600, abs=60)
    assert state.course["train", "loss"].drawn() == [(100, 0.5312), (120, 0.5)]
    assert (state.first_evaluation, state.evaluation, state.evaluation_step) == (
        FIRST.metrics,
        LAST.metrics,
        200,
    )
    assert (state.first_samples.step, state.samples.step) == (0, 200)
    assert [line.text for line in state.lines if line.kind == "warning"] == [
        "the loss of step 7 jumps\nlook at it"
    ]


def test_a_phase_goes_on_there(folder):
    status(
        folder,
        phases=[{"name": "evaluating", "total": 100, "done": 40, "began": time.time() - 4}],
        microbatch=None,
    )
    assert "evaluating" in (text := seen(folder))
    assert "40 of 100" in text


def test_once_on_a_terminal_and_off_it(folder):
    wide = seen(folder, terminal=True)
    assert "step 200 of 470" in wide
    assert "loss  ─ train 0.5000  ◆ eval 0.5431" in wide
    assert "before Hello 0" in wide
    narrow = seen(folder, width=60)
    assert "loss 0.5000" in narrow
    assert "checkpoint step 100" in narrow


def test_only_what_is_new_is_read_again(folder):
    follower = Follower(folder)
    assert len(follower.look().records) == 4
    assert follower.look().records == []
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 130, "loss": 0.4}\n{"kind": "tra')
    assert [record.step for record in follower.look().records] == [130]
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('in", "step": 140, "loss": 0.4}\n')
    news = follower.look()
    assert [record.step for record in news.records] == [140]
    assert not news.restarted
    assert news.checkpoint is None


def test_a_run_that_is_resumed_meanwhile_is_read_from_the_start(folder):
    follower = Follower(folder)
    follower.look()
    MetricsFile(folder / "metrics.jsonl").rewind(100)
    news = follower.look()
    assert news.restarted
    assert [record.step for record in news.records] == [0, 100]
    assert len(news.warnings) == 1


@pytest.mark.parametrize("name", ["status.json", "metrics.jsonl", "samples.jsonl", "run.log"])
@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\n", b"[" * 10_000 + b"\n", b'{"step": "x", "phases": [1], "info": 3}\n']
)
def test_a_damaged_file_is_read_as_far_as_it_goes(folder, name, content):
    (folder / name).write_bytes(content)
    take(Follower(folder).look(), Tracker(time.time))


def test_what_is_no_run_folder_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"^there is no run in .* yet\."):
        watch(tmp_path / "none")
    with pytest.raises(RecipeError, match=r"has no status.json, so it is no run folder"):
        watch(tmp_path)


def gone_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize(
    ("changes", "gone"),
    [
        ({}, False),
        ({"updated": NOW - 10_000}, False),
        ({"host": "elsewhere", "updated": NOW - 60}, False),
        ({"host": "elsewhere", "updated": NOW - 600}, True),
        ({"state": "finished", "host": "elsewhere", "updated": NOW - 600}, False),
    ],
)
def test_whether_a_process_is_gone(folder, changes, gone):
    status(folder, updated=NOW)
    values = json.loads((folder / "status.json").read_text()) | changes
    assert Status(values).is_gone(NOW) is gone


def test_a_run_that_was_killed_is_said_so_with_the_command_that_resumes_it(folder):
    status(folder, pid=gone_process(), updated=time.time() - 190)
    with pytest.raises(RunError) as error:
        seen(folder)
    first, second = str(error.value).splitlines()
    assert first.startswith("the run was killed after step 200: process ")
    assert " is gone, last heard of 3m1" in first
    assert (
        second
        == f"go on with: dpotrain run {folder / 'recipe.toml'} --resume (from the checkpoint of step 100)"
    )
    status(folder, pid=gone_process(), updated=time.time() - 190, launch=["--processes", "2"])
    with pytest.raises(RunError, match=r"recipe\.toml --processes 2 --resume \(from"):
        seen(folder)
    assert dpotrain("watch", str(folder)).exit_code == 1


def test_keys_are_files_in_the_folder(folder):
    said: list[str] = []
    controls = RemoteControls(folder, said.append)
    controls.save()
    controls.evaluate()
    controls.stop("x was pressed")
    assert {path.name for path in folder.glob(".request-*")} == {
        ".request-save",
        ".request-evaluate",
        ".request-stop",
    }
    RemoteControls(folder / "none", said.append).save()
    assert said == [
        f"cannot ask the run to save: {folder / 'none'} cannot be written (No such file or directory)"
    ]


def test_it_imports_nothing_heavy(folder):
    assert set(HEAVY).isdisjoint(imported_by("watch", "--once", str(folder)))


@pytest.mark.parametrize(
    ("key", "ends"), [pytest.param("q", "it goes on", marks=pytest.mark.soak), ("xy", "stopped")]
)
def test_a_run_in_another_process_watched_on_a_terminal(tmp_path, key, ends):
    recipe = project(tmp_path)
    command = [
        sys.executable,
        "-m",
        "dpotrain",
        "run",
        str(recipe),
        "--set",
        "training.epochs=2000",
        "--plain",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 120
            while not (tmp_path / "run" / "metrics.jsonl").exists():
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            code = "from dpotrain.cli import main; main(['watch', __import__('sys').argv[1]], prog_name='dpotrain')"
            with OnTerminal(code, str(tmp_path / "run")) as terminal:
                terminal.until("q leave")
                terminal.until("loss  ─ train")
                terminal.press(key)
                assert terminal.end() == (0 if key == "q" else 75)
                terminal.assert_given_back()
                assert ("stopped after" in terminal.screen.text) is (ends == "stopped")
            assert (process.poll() is None) is (key == "q") or process.wait(60) == 75
            if key == "q":
                process.send_signal(signal.SIGKILL)
                process.wait()
                result = dpotrain("watch", str(tmp_path / "run"))
                assert result.exit_code == 1
                assert "the run was killed after step " in result.stderr
        finally:
            process.kill()


def test_a_run_that_has_finished_is_shown_with_its_summary(folder, tmp_path):
    recipe = project(tmp_path / "other")
    assert dpotrain("run", str(recipe), "--set", "training.steps=2").exit_code == 0
    for options in ((), ("--once",), ("--plain",)):
        result = dpotrain("watch", str(tmp_path / "other" / "run"), *options)
        assert result.exit_code == 0, result.output
        assert "finished after 2 steps" in result.stdout
    assert "step 2 loss=" in dpotrain("watch", str(tmp_path / "other" / "run")).stdout
