"""Data files, folders and names that are not what they should be: each named in a few lines."""

import gzip
import io
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from dpotrain.core.errors import DataError, RecipeError
from dpotrain_plugins.hf_datasets.source import HFDatasetsSource
from dpotrain_plugins.transformers_loader import TransformersLoader
from tests.plugins.test_hf_datasets import zstd

#: What no file is called, by name or by its length.
NAMES = ["~nobody-here/x", "x/" * 3000, "https://host/" + "x" * 5000, "x" * 5000 + ".jsonl"]


def rows(file):
    loaded = HFDatasetsSource(HFDatasetsSource.Options(name=str(file))).load("train")
    return [loaded[index] for index in range(len(loaded))]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.jsonl", b'{"a": ' + b"9" * 5000 + b"}", "line 1: a number of too many digits"),
        ("x.jsonl", b"{}\n[" + b"[" * 300 + b"]" * 301, "line 2: lists and objects more than 200 deep"),
        ("x.jsonl", b'{"a": ' + b"[" * 90_000, "line 1: lists and objects more than 200 deep"),
        ("x.json", b'[{"a": ' + b"[" * 300 + b"]" * 300 + b"}]", "lists and objects more than 200 deep"),
        ("x.json", b"[" * 90_000, "lists and objects more than 200 deep"),
        ("x.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 99, mtime=0)[:15] + b"\xff" * 20, "is not a complete gzip file"),
        ("x.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 99, mtime=0)[:-4], "is not a complete gzip file: Truncated"),
        ("x.csv.gz", gzip.compress(b"a,b\n1,2\n", mtime=0) + b"junk", "is not a complete gzip file"),
        ("x.csv.zst", zstd(b"a,b\n1,2\n")[:-2], "is not a complete zstd file: Truncated"),
        ("x.jsonl.zst", zstd(b'{"a": 1}\n{"a" 2}\n'), "line 2: not valid JSON"),
        ("x.jsonl.zst", zstd(b""), "x.jsonl.zst is empty"),
        ("x.json.gz", gzip.compress(b"", mtime=0), "x.json.gz is empty"),
        ("x.jsonl", gzip.compress(b"{}\n", mtime=0), "x.jsonl is compressed (gzip), and its name does not end in .gz"),
        ("x.csv", zstd(b"a,b\n1,2\n"), "Rename it to x.csv.zst"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named_with_its_place(name, content, words, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        rows(tmp_path / name)
    assert words in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


def test_text_in_a_parquet_file_that_is_no_utf8_is_named_by_its_row(tmp_path):
    binary = pyarrow.array([b"good", b"\xff\xfe"], pyarrow.binary())
    text = pyarrow.StringArray.from_buffers(2, binary.buffers()[1], binary.buffers()[2])
    pyarrow.parquet.write_table(pyarrow.table({"prompt": text}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"row 1 cannot be read: UnicodeDecodeError"):
        rows(tmp_path / "x.parquet")


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name[:14])
def test_a_name_that_no_file_can_have_is_not_there(name):
    with pytest.raises(DataError) as data:
        HFDatasetsSource(HFDatasetsSource.Options(name=name)).check()
    with pytest.raises(RecipeError) as model:
        TransformersLoader(TransformersLoader.Options(name=f"./{name}")).check()
    TransformersLoader(TransformersLoader.Options(name="owner/name", chat_template=name)).check()
    for error in (data, model):
        assert len(str(error.value)) < 500


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells what of memory is no file")
def test_decompressing_takes_disk_and_not_memory(tmp_path):
    """A file of JSON lines stays on disk, as one that is not compressed does."""
    line = b'{"prompt": "' + b"x" * 1000 + b'"}\n'
    (tmp_path / "big.jsonl.zst").write_bytes(zstd(line * 60_000))
    code = (
        "import re, sys\n"
        "from pathlib import Path\n"
        "from dpotrain_plugins.hf_datasets import HFDatasetsSource\n"
        "def load(name): return HFDatasetsSource(HFDatasetsSource.Options(name=name)).load('train')\n"
        "def kilobytes(): return int(re.search(r'RssAnon:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "load(sys.argv[1])\n"
        "before = kilobytes()\n"
        "loaded = load(sys.argv[2])\n"
        "print(len(loaded), kilobytes() - before)\n"
    )
    (tmp_path / "small.jsonl.zst").write_bytes(zstd(line))
    names = [str(tmp_path / name) for name in ("small.jsonl.zst", "big.jsonl.zst")]
    ended = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=True)
    count, grown = map(int, ended.stdout.split())
    assert count == 60_000
    assert grown < 20 * 1024, "of 60 MB"


def test_a_disk_that_is_full_is_named(tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, part):
            raise OSError(28, "No space left on device")

    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\n'))
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: Full())
    with pytest.raises(
        DataError, match=r"x\.jsonl\.gz cannot be decompressed into .*: No space left on device"
    ):
        rows(tmp_path / "x.jsonl.gz")
