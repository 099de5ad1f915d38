"""Data files, folders and names that are not what they should be: each named in a few lines."""

import gzip

import pyarrow
import pyarrow.parquet
import pytest

from dpotrain.core.errors import DataError, RecipeError
from dpotrain_plugins.hf_datasets.source import HFDatasetsSource
from dpotrain_plugins.transformers_loader import TransformersLoader

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
