"""The token cache: a second start finds everything, whatever changes a token misses, damage is noticed."""

import json
import multiprocessing
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from dpotrain.core.errors import DataError
from dpotrain.data import prepare as prepare_module
from dpotrain.data.prepare import prepare_data
from dpotrain.data.tokens import cache_key as key_module
from dpotrain_plugins.formatters.standard import StandardFormatter
from tests.data.formatters_for_tests import Plain
from tests.data.preparing import RecordingReporter, everything, prepare, row
from tests.data.tokenizers_for_tests import CHATML, MARKS_THE_LAST, assistant, bpe, user

ROWS = [
    *(row(number) for number in range(20)),
    row(20) | {"chosen": ""},
    row(21, "long " * 200),
    *(row(number) for number in range(22, 30)),
]
KEYS = {"max_length": 60, "eval_fraction": 0.3}


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "deep" / "cache"


@pytest.fixture
def counted(monkeypatch) -> list[int]:
    """The rows of every split that was tokenized."""
    seen: list[int] = []
    real = prepare_module.tokenize_split

    def counting(rows, *rest):
        seen.append(len(rows))
        return real(rows, *rest)

    monkeypatch.setattr(prepare_module, "tokenize_split", counting)
    return seen


def entries(cache: Path) -> list[Path]:
    return sorted(path for path in (cache / "tokens").iterdir() if path.is_dir())


def messages(shown) -> tuple:
    return shown.notes, shown.warnings


def test_a_hit_is_what_the_miss_was_pairs_report_and_words(recipe, cache, counted):
    uncached, shown_uncached = prepare(recipe(ROWS, **KEYS))
    miss, shown_miss = prepare(recipe(ROWS, **KEYS), cache=cache)
    hit, shown_hit = prepare(recipe(ROWS, **KEYS), cache=cache)
    assert counted == [30, 30]
    assert everything(uncached) == everything(miss) == everything(hit)
    assert messages(shown_uncached) == messages(shown_miss) == messages(shown_hit)
    assert len(shown_hit.warnings) == 1
    assert [name for name, _, _ in shown_hit.phases] == ["reading the data", "hashing the data"]
    assert hit.report.summary_lines() == miss.report.summary_lines()
    assert json.dumps(hit.report.as_json()) == json.dumps(miss.report.as_json())
    assert hit.formatter == miss.formatter


def test_an_evaluation_split_is_kept_too(recipe, cache, counted):
    splits = {"train": ROWS, "test": [row(1), row(40)]}
    miss, shown_miss = prepare(recipe(splits, eval_split="test"), cache=cache)
    hit, shown_hit = prepare(recipe(splits, eval_split="test"), cache=cache)
    assert counted == [30, 2]
    assert everything(miss) == everything(hit)
    assert hit.report.shared_prompts == {"test": 1}
    assert messages(shown_miss) == messages(shown_hit)


def test_a_split_without_a_usable_pair_is_the_same_error_again(recipe, cache):
    texts = []
    for _ in range(2):
        with pytest.raises(DataError) as error:
            prepare(recipe([row(1, "long " * 50)], max_length=4), cache=cache)
        texts.append(str(error.value))
    assert texts[0] == texts[1]
    assert "raise data.max_length" in texts[0]


def test_another_share_held_out_and_another_seed_find_the_tokens(recipe, cache, counted):
    """TRAPS: a cache key that contains everything so that it never hits."""
    prepare(recipe(ROWS, **KEYS), cache=cache)
    fewer, _ = prepare(recipe(ROWS, max_length=60, eval_fraction=0.1, seed=7), cache=cache)
    assert counted == [30]
    assert len(fewer.train) > len(fewer.evaluation)


def test_a_preview_leaves_the_cache_alone(recipe, cache):
    prepared, _ = prepare(recipe(ROWS, **KEYS), cache=cache, preview=10)
    assert prepared.preview
    assert not cache.exists()


CHAT = [
    {"prompt": [user(f"hi {n}")], "chosen": [assistant(f"yes {n}")], "rejected": [assistant("no")]}
    for n in range(5)
]


def changed_rows(recipe):
    return recipe([*ROWS[:-1], row(99)]), bpe()


def changed_format(recipe):
    key_module.FORMAT += 1
    return recipe(ROWS), bpe()


def changed_version(recipe):
    made = recipe(ROWS)
    owner = made.plugins.owner
    made.plugins.owner = lambda cls: _Owner(owner(cls))
    return made, bpe()


class _Owner:
    def __init__(self, plugin):
        self.origin = f"{plugin.origin} 2.0"


@pytest.mark.parametrize(
    "change",
    [
        changed_rows,
        changed_format,
        changed_version,
        lambda recipe: (recipe(ROWS, max_length=50), bpe()),
        lambda recipe: (recipe(ROWS, limit=29), bpe()),
        lambda recipe: (recipe({"train": ROWS, "copy": ROWS}, train_split="copy"), bpe()),
        lambda recipe: (recipe(ROWS, columns={"chosen": "rejected", "rejected": "chosen"}), bpe()),
        lambda recipe: (recipe(ROWS, formatter=Plain(Plain.Options())), bpe()),
        lambda recipe: (recipe(ROWS), bpe(eos=False)),
        lambda recipe: (recipe(ROWS), bpe(bos=True)),
        lambda recipe: (recipe(ROWS), bpe(adds="<s> $A")),
        # The formatter that is found, named: plain text for a chat model is asked about.
        lambda recipe: (
            recipe(ROWS, formatter=StandardFormatter(StandardFormatter.Options())),
            bpe(template=CHATML),
        ),
    ],
    ids=[
        *("rows", "our own format", "formatter's version", "max_length", "limit", "split", "columns"),
        *("formatter", "eos", "bos", "what the tokenizer adds", "template"),
    ],
)
def test_whatever_changes_a_token_or_the_report_misses(recipe, cache, counted, monkeypatch, change):
    """TRAPS: a cache key that forgets something."""
    monkeypatch.setattr(key_module, "FORMAT", key_module.FORMAT)
    prepare(recipe(ROWS), cache=cache)
    made, tokenizer = change(recipe)
    prepare(made, tokenizer, cache=cache)
    assert len(counted) == 2


def test_options_of_the_formatter_and_vocabulary_and_template_are_part_of_the_key(recipe, cache, counted):
    for suffix in ("", "!"):
        prepare(recipe(ROWS, formatter=Plain(Plain.Options(suffix=suffix))), cache=cache)
    assert len(counted) == 2
    tokenizer = bpe()
    tokenizer.add_tokens(["question"])
    prepare(recipe(ROWS, formatter=Plain(Plain.Options())), tokenizer, cache=cache)
    assert len(counted) == 3
    for template in (CHATML, MARKS_THE_LAST):
        prepare(recipe(CHAT), bpe(template=template), cache=cache)
    assert len(counted) == 5


def test_a_formatter_whose_code_has_changed_misses(recipe, cache, counted, tmp_path, monkeypatch):
    """An editable install keeps its version while its author works on it."""
    monkeypatch.syspath_prepend(tmp_path)
    code = (
        "from dpotrain_plugins.formatters.standard import StandardFormatter\n"
        "class Mine(StandardFormatter):\n    name = 'mine'\n"
    )
    for text in (code, code + "    # changed\n"):
        (tmp_path / "being_written.py").write_text(text)
        sys.modules.pop("being_written", None)
        from being_written import Mine

        prepare(recipe(ROWS, formatter=Mine(Mine.Options())), cache=cache)
    assert len(counted) == 2


def test_calls_of_the_tokenizer_do_not_change_its_key(recipe, cache, counted):
    tokenizer = bpe(pad_token="<pad>")
    prepare(recipe(ROWS), tokenizer, cache=cache)
    tokenizer(["a", "a b c d"], padding=True, truncation=True, max_length=3)
    prepare(recipe(ROWS), tokenizer, cache=cache)
    assert len(counted) == 1


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [cut_short, flip, Path.unlink], ids=["cut short", "a bit", "gone"])
@pytest.mark.parametrize("name", ["tokens.npy", "keys.npy", "prompts.npy", "manifest.json"])
def test_a_damaged_entry_is_reported_and_rebuilt(recipe, cache, counted, name, damage):
    whole, _ = prepare(recipe(ROWS, **KEYS), cache=cache)
    expected = everything(whole)
    (entry,) = entries(cache)
    damage(entry / name)
    rebuilt, shown = prepare(recipe(ROWS, **KEYS), cache=cache)
    assert everything(rebuilt) == expected
    (line,) = [text for text in shown.warnings if "damaged" in text]
    assert line.startswith(f"the tokenized data in {entry} is damaged ({name} ")
    assert "\n" not in line
    _, shown = prepare(recipe(ROWS, **KEYS), cache=cache)
    assert not [text for text in shown.warnings if "damaged" in text]
    assert len(counted) == 2


def test_entries_are_for_their_owner_alone_and_nothing_else_is_left(recipe, cache):
    cache.parent.mkdir()
    prepare(recipe(ROWS), cache=cache)
    (entry,) = entries(cache)
    for folder in (cache, entry.parent, entry):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.name for path in entry.parent.iterdir()} <= {entry.name, f"{entry.name}.lock"}
    assert np.lib.format.open_memmap(entry / "tokens.npy", mode="r").dtype == np.int32
    assert not any(path.name.startswith("uncut") for path in entry.iterdir())


def test_what_a_kill_left_half_built_goes(recipe, cache):
    prepare(recipe(ROWS), cache=cache)
    (entry,) = entries(cache)
    partial = entry.with_name(f".{entry.name}.partial")
    entry.rename(partial)
    prepare(recipe(ROWS), cache=cache)
    assert entries(cache) == [entry]


def test_a_full_disk_is_a_warning_where_the_cache_is_and_an_error_elsewhere(recipe, cache, monkeypatch):
    from dpotrain.data.tokens import column_files

    real = column_files.Column.append

    def full(self, values):
        if str(cache) in self._file.name or broken:
            raise OSError(28, "No space left on device")
        real(self, values)

    monkeypatch.setattr(column_files.Column, "append", full)
    broken = False
    prepared, shown = prepare(recipe(ROWS), cache=cache)
    assert len(prepared.train)
    assert any("(No space left on device)" in text for text in shown.warnings)
    assert not entries(cache)
    broken = True
    with pytest.raises(DataError, match=r"No space left on device\.\nFree disk space there, or set TMPDIR"):
        prepare(recipe(ROWS))


def test_without_a_cache_nothing_is_left_behind(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    prepared, _ = prepare(recipe(ROWS))
    assert not list(tmp_path.glob("dpotrain-*"))
    assert prepared.train[0].prompt.tolist()


#: Prepares data with a cache, and says how many rows it tokenized itself.
SCRIPT = """
import json, sys
from pathlib import Path
from dpotrain.data import prepare as module
from tests.data.preparing import prepare, row, write_recipe
seen, real = [], module.tokenize_split
module.tokenize_split = lambda rows, *rest: (seen.append(len(rows)), real(rows, *rest))[1]
folder = Path(sys.argv[1])
prepared, _ = prepare(write_recipe(folder, [row(n) for n in range(20)]), cache=folder / "cache")
print(json.dumps([seen, prepared.train.keys.tobytes().hex()]))
"""


def test_of_processes_that_start_together_one_tokenizes_and_the_others_find_it(tmp_path):
    folders = [tmp_path / str(number) for number in range(3)]
    (tmp_path / "cache").mkdir()
    for folder in folders:
        folder.mkdir()
        (folder / "cache").symlink_to(tmp_path / "cache")
    running = [
        subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)], stdout=subprocess.PIPE, cwd=Path.cwd())
        for folder in folders
    ]
    answers = [json.loads(process.communicate(timeout=120)[0]) for process in running]
    assert sorted(seen for seen, _ in answers) == [[], [], [20]]
    assert len({keys for _, keys in answers}) == 1


def test_who_waits_for_another_process_says_so(recipe, cache, monkeypatch):
    prepare(recipe(ROWS), cache=cache)
    (entry,) = entries(cache)
    for path in entry.iterdir():
        path.unlink()
    entry.rmdir()
    lock = FileLock(entry.with_suffix(".lock"))
    held, released = cache / "held", cache / "released"
    holder = multiprocessing.get_context("fork").Process(target=_hold, args=(lock.lock_file, held, released))
    holder.start()
    while not held.exists():
        time.sleep(0.01)

    class Releasing(RecordingReporter):
        def phase(self, name, total):
            if name.startswith("waiting"):
                released.touch()
            return super().phase(name, total)

    shown = Releasing()
    prepared = prepare_data(recipe(ROWS), bpe(), shown, cache=cache)
    holder.join()
    assert shown.phases[2][0] == "waiting for another process to tokenize the same data"
    assert len(prepared.train)


def _hold(path, held: Path, released: Path) -> None:
    with FileLock(path):
        held.touch()
        while not released.exists():
            time.sleep(0.01)
    os._exit(0)
