"""What runs measured is kept in a small file, and whatever else is in it does no harm."""

import json

import pytest

from dpotrain.run import measurements
from dpotrain.run.measurements import FILE, Learned, Measurement, look_up, remember
from tests.run.recipes import project, run


def measured(key: str = "a", rate: float = 1e9, **values: float) -> Measurement:
    return Measurement(key=key, rate=rate, **{"process": 4e8, "allocator": 0.5, "loading": 3.0} | values)


def test_what_several_runs_measured_is_their_median(tmp_path):
    assert look_up(tmp_path, "a") is None
    for rate in (1e9, 5e9, 2e9):
        remember(tmp_path, measured(rate=rate))
    remember(tmp_path, measured("b", rate=9e9))
    assert look_up(tmp_path, "a") == Learned(3, 2e9, 4e8, 0.5, 3.0)
    assert look_up(tmp_path, "c") is look_up(None, "a") is None


def test_the_file_stays_small_and_the_newest_runs_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(measurements, "_MOST_RUNS", 8)
    for number in range(1, 9):
        remember(tmp_path, measured(rate=number * 1e9))
    assert look_up(tmp_path, "a") == Learned(5, 6e9, 4e8, 0.5, 3.0)
    for number in range(20):
        remember(tmp_path, measured(f"other {number}"))
    assert len(json.loads((tmp_path / FILE).read_text())["runs"]) == 8
    assert look_up(tmp_path, "a") is None


GOOD = measured().model_dump()


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        ("", 0),
        ("{", 0),
        ("[]", 0),
        ("[" * 5000, 0),
        ('{"runs": {"a": 1}}', 0),
        (json.dumps({"runs": [None, 3, GOOD]}), 1),
        (json.dumps({"runs": [GOOD | {"rate": 0}, GOOD | {"rate": -1.0}, GOOD | {"rate": 1e30}]}), 0),
        (json.dumps({"runs": [GOOD | {"rate": "1e9"}, GOOD | {"more": 1}, GOOD | {"key": "a" * 501}]}), 0),
        ('{"runs": [{"key": "a", "rate": NaN, "process": 1.0, "allocator": 0.5, "loading": 3.0}]}', 0),
        (json.dumps({"runs": [GOOD] * 5000}), 0),
    ],
    ids=["empty", "broken", "list", "deep", "table", "mixed", "beyond", "types", "nan", "too large"],
)
def test_whatever_is_in_the_file_is_ignored_unless_a_run_writes_it(content, kept, tmp_path):
    (tmp_path / FILE).write_text(content)
    found = look_up(tmp_path, "a")
    assert (0 if found is None else found.runs) == kept
    remember(tmp_path, measured())
    assert look_up(tmp_path, "a").runs == kept + 1


def test_a_file_that_cannot_be_read_or_written_is_done_without(tmp_path):
    (tmp_path / FILE).mkdir()
    assert look_up(tmp_path, "a") is None
    remember(tmp_path, measured())
    (tmp_path / "file").write_text("")
    remember(tmp_path / "file", measured())
    remember(None, measured())


def test_runs_of_some_steps_leave_what_they_measured(tmp_path):
    recipe, cache = project(tmp_path), tmp_path / "cache"
    there = f"run.cache_dir={str(cache)!r}"
    run(recipe, there, "training.steps=4", into=tmp_path / "short")
    assert not (cache / FILE).exists()
    run(recipe, there, into=tmp_path / "long")
    (entry,) = json.loads((cache / FILE).read_text())["runs"]
    assert Measurement.model_validate(entry).rate > 0
    assert "43168/43168" in entry["key"]
