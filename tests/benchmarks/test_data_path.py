"""The benchmark of the data's way measures what it says."""

import json

import pytest

from tests.benchmarks import data_path


@pytest.mark.soak
def test_every_figure_is_measured_shown_and_written(tmp_path, capsys):
    out = tmp_path / "data.json"
    assert data_path.main(["--pairs", "200", "--out", str(out)]) == 0
    (found,) = json.loads(out.read_text(encoding="utf-8"))["by_pairs"].values()
    assert set(found) == set(data_path.ROWS)
    assert all(value >= 0 for value in found.values())
    assert "second start, s" in capsys.readouterr().out
