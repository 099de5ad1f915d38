import json

import pytest
from dpotrain_mixture import Mixture

from dpotrain.testing import DatasetSourceConformance, example_pairs


class TestMixture(DatasetSourceConformance):
    component = Mixture

    @pytest.fixture
    def table(self, tmp_path):
        parts = {"a": example_pairs(12), "b": [row | {"score": 1} for row in example_pairs(30)]}
        for name, rows in parts.items():
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        files = {name: {"use": "hf-datasets", "name": str(tmp_path / f"{name}.jsonl")} for name in parts}
        return {"parts": [{"source": files["a"], "weight": 2.0}, {"source": files["b"]}], "seed": 5}

    def test_weights_decide_how_many_rows_of_each_there_are(self, part):
        rows = part.load("train")
        scores = [rows[number]["score"] for number in range(len(rows))]
        assert (scores.count(None), scores.count(1)) == (12, 6)
        assert scores != sorted(scores, key=str)
