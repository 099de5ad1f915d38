"""metrics.jsonl."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpotrain.core.records import Record
from dpotrain.run.folder.metrics_file import MetricsFile


def test_one_object_a_line(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.write(Record("train", 10, {"loss": 0.5, "grad_norm": float("nan")}))
    assert (tmp_path / "metrics.jsonl").read_text() == (
        '{"kind": "train", "step": 10, "loss": 0.5, "grad_norm": null}\n'
    )


def test_a_resumed_run_writes_no_line_twice(tmp_path):
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path)
    file.rewind(5)
    assert not path.exists()
    for step in (0, 5, 10):
        file.write(Record("train", step, {"loss": 1.0}))
    with path.open("a") as torn:
        torn.write('{"kind": "train", "st')
    file.rewind(5)
    file.write(Record("eval", 10, {"loss": 2.0}))
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 5, 10]
    assert json.loads(path.read_text().splitlines()[-1])["kind"] == "eval"


def test_what_was_written_is_read_back(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    written = [Record("eval", 0, {"loss": 0.7}), Record("train", 10, {"loss": 0.5, "epoch": 1})]
    for record in written:
        file.write(record)
    file.write(Record("train", 11, {"loss": float("inf")}))
    *read, last = file.read()
    assert read == written
    assert math.isnan(last.metrics["loss"])


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "it is not JSON"),
        ("", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ("3", "it is no object"),
        ('{"step": 1}', "its kind is null"),
        ('{"kind": "test", "step": 1}', 'its kind is "test"'),
        ('{"kind": [], "step": 1}', "its kind is []"),
        ('{"kind": "train"}', "its step is null"),
        ('{"kind": "train", "step": true}', "its step is true"),
        ('{"kind": "train", "step": -1}', "its step is -1"),
        ('{"kind": "train", "step": 1, "loss": "low"}', 'its "loss" is no number'),
    ],
)
def test_a_line_that_is_no_record_is_named_by_its_number(tmp_path, line, why):
    path = tmp_path / "metrics.jsonl"
    sound = '{"kind": "train", "step": 1, "loss": 0.5}\n'
    path.write_text(f"{sound}{line}\n{sound}")
    record = Record("train", 1, {"loss": 0.5})
    assert list(MetricsFile(path).read()) == [record, f"{path}:2 is no record: {why}", record]


def test_a_last_line_without_its_end_was_cut_short(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "train", "st')
    assert list(MetricsFile(path).read()) == [f"{path}:1 is no record: it is cut short"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
LINES = st.one_of(
    st.binary(),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries(
        {"kind": st.sampled_from(["train", "eval", "test"]) | JSON, "step": st.integers() | JSON},
        optional={"loss": JSON},
    ).map(lambda value: json.dumps(value).encode()),
)


@given(lines=st.lists(LINES, max_size=8))
@settings(max_examples=200, deadline=None)
def test_whatever_is_in_the_file_each_line_is_a_record_or_is_named(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("fuzz") / "metrics.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    found = list(MetricsFile(path).read())
    assert len(found) == path.read_bytes().count(b"\n")
    for number, record in enumerate(found, start=1):
        if isinstance(record, str):
            assert record.startswith(f"{path}:{number} is no record: ")
        else:
            assert record.kind in ("train", "eval")
            assert record.step >= 0
            assert all(isinstance(value, int | float) for value in record.metrics.values())
