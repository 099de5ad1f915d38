"""Formatting and tokenizing in worker processes: what comes out is what one process would make."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dpotrain.core.errors import DataError
from dpotrain.data import prepare as prepare_module
from tests.data.formatters_for_tests import Dying, Failing, Plain, Unsendable, Watching
from tests.data.preparing import everything, prepare, row
from tests.data.tokenizers_for_tests import CHATML, assistant, bpe, user

ROWS = [
    *(row(number, prompt=f"question {number % 90}") for number in range(200)),
    row(200) | {"chosen": ""},
    row(201, "long " * 200),
    row(202) | {"rejected": None},
    *(row(number) for number in range(203, 260)),
    row(260) | {"chosen": ""},
]


@pytest.fixture
def by(monkeypatch):
    """Choose how many processes work, whatever the size of the data."""

    def choose(processes):
        monkeypatch.setattr("dpotrain.data.tokens.workers.MIN_ROWS_FOR_WORKERS", 1)
        monkeypatch.setattr("dpotrain.data.tokens.workers.ROWS_PER_BATCH", 16)
        monkeypatch.setattr(prepare_module, "cores", lambda: processes)

    return choose


@pytest.mark.parametrize("shape", ["plain", "conversations"])
def test_order_and_report_are_those_of_one_process(recipe, by, shape):
    rows, tokenizer = ROWS, bpe()
    if shape == "conversations":
        tokenizer = bpe(template=CHATML)
        rows = [
            {
                "prompt": [user(f"hi {n}")],
                "chosen": [assistant(f"yes {n}" * (n % 20))],
                "rejected": [assistant("no")],
            }
            for n in range(100)
        ]
    keys = {"max_length": 60, "eval_fraction": 0.2}
    by(1)
    one, shown_one = prepare(recipe(rows, **keys), tokenizer)
    by(3)
    three, shown_three = prepare(recipe(rows, **keys), tokenizer)
    assert everything(one) == everything(three)
    assert (shown_one.notes, shown_one.warnings, shown_one.phases) == (
        shown_three.notes,
        shown_three.warnings,
        shown_three.phases,
    )
    assert len(one.train) > 60


def test_an_error_is_the_one_that_a_person_sees_without_workers(recipe, by):
    rows = [row(n, f"{'broken' if n in (150, 151) else 'question'} {n}") for n in range(200)]
    texts = []
    for processes in (1, 2):
        by(processes)
        with pytest.raises(ZeroDivisionError) as error:
            prepare(recipe(rows, formatter=Failing(Failing.Options())))
        texts.append(error.value.__notes__)
    assert texts[0] == texts[1]
    assert "It was given row 150." in texts[0][0]


def test_the_first_row_that_is_wrong_is_named_whether_reading_or_formatting_fails(recipe, by, monkeypatch):
    """Rows are read ahead of those that workers are busy with."""
    made = recipe([row(n, f"{'broken' if n == 30 else 'question'} {n}") for n in range(80)])
    made.formatter = Failing(Failing.Options())
    rows = made.source.load("train")
    read = type(rows).__getitem__

    def failing(self, index):
        if index == 70:
            raise DataError("row 70 cannot be read")
        return read(self, index)

    monkeypatch.setattr(type(rows), "__getitem__", failing)
    by(2)
    with pytest.raises(ZeroDivisionError) as error:
        prepare(made)
    assert "row 30" in error.value.__notes__[0]
    made.formatter = None
    with pytest.raises(DataError, match="row 70 cannot be read"):
        prepare(made)


def test_workers_that_die_leave_the_work_to_the_main_process(recipe, by, tmp_path):
    by(1)
    expected, _ = prepare(recipe(ROWS, formatter=Plain(Plain.Options())))
    (tmp_path / "main").write_text(str(os.getpid()))
    by(2)
    dying = Dying(Dying.Options(main=str(tmp_path / "main")))
    got, _ = prepare(recipe(ROWS, formatter=dying))
    assert got.train.stores[0].tokens.tolist() == expected.train.stores[0].tokens.tolist()


def test_what_cannot_be_sent_to_workers_is_done_in_one_process_and_said(recipe, by):
    by(2)
    prepared, shown = prepare(recipe(ROWS, formatter=Unsendable(Unsendable.Options())))
    assert len(prepared.train)
    (note,) = [text for text in shown.notes if "in one process" in text]
    assert "cannot be sent to another process (cannot pickle" in note


def test_workers_import_nothing_heavy(recipe, by, tmp_path):
    (tmp_path / "seen").mkdir()
    by(2)
    prepare(recipe(ROWS, formatter=Watching(Watching.Options(folder=str(tmp_path / "seen")))))
    seen = {int(path.name): path.read_text() for path in (tmp_path / "seen").iterdir()}
    seen.pop(os.getpid(), None)
    assert set(seen.values()) == {""}


#: Prepares slow data with workers, as a script without a guard around its main part would.
SCRIPT = """
import signal, sys
from pathlib import Path
import dpotrain.data.prepare, dpotrain.data.tokens.tokenize_split
from tests.data.formatters_for_tests import Slow
from tests.data.preparing import prepare, row, write_recipe

# Tests that were started in a shell's background are deaf to SIGINT, and so is what they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
dpotrain.data.tokens.workers.MIN_ROWS_FOR_WORKERS = 1
dpotrain.data.prepare.cores = lambda: 2
folder = Path(sys.argv[1])
formatter = Slow(Slow.Options(folder=str(folder / "pids")))
prepare(write_recipe(folder, [row(n) for n in range(5000)], formatter=formatter))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill"])
def test_workers_end_with_the_main_process(tmp_path, how):
    (tmp_path / "pids").mkdir()
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)}
    # A session of its own: a terminal's Ctrl-C reaches the whole group.
    main = subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 300
    while len(list((tmp_path / "pids").iterdir())) < 2:
        assert main.poll() is None, main.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    pids = [int(path.name) for path in (tmp_path / "pids").iterdir()]
    assert main.pid not in pids
    if how is signal.SIGINT:
        os.killpg(main.pid, how)
    else:
        main.kill()
    _, said = main.communicate(timeout=300)
    assert said.count(b"KeyboardInterrupt") == (how is signal.SIGINT), said.decode()
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    if how is signal.SIGINT:
        assert not list(tmp_path.glob("dpotrain-*"))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
