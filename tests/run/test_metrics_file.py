"""metrics.jsonl."""

from __future__ import annotations

import json

from dpotrain.run.metrics_file import MetricsFile
from dpotrain.run.records import Record


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
