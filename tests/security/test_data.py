"""Data sets that come with more than data."""

import json

import pytest

from dpotrain.core.errors import DataError
from dpotrain_plugins.hf_datasets.source import HFDatasetsSource
from tests.security.hostile import Marker

ROW = {"prompt": "How?", "chosen": " So.", "rejected": " No."}


def source(name):
    return HFDatasetsSource(HFDatasetsSource.Options(name=str(name)))


@pytest.fixture
def folder(tmp_path):
    """A folder with a loading script, as the hub once ran them."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    script = Marker(tmp_path).code + (
        "import datasets\nclass Pairs(datasets.GeneratorBasedBuilder):\n"
        "    def _info(self): return datasets.DatasetInfo()\n"
    )
    (folder / "pairs.py").write_text(script)
    (folder / "conftest.py").write_text(script)
    return folder


def test_a_loading_script_alone_is_no_data(folder, tmp_path):
    with pytest.raises(DataError, match="the folder holds no data files"):
        source(folder).load("train")
    assert not Marker(tmp_path).there


def test_a_loading_script_beside_data_is_left_alone(folder, tmp_path):
    (folder / "train.jsonl").write_text(json.dumps(ROW) + "\n")
    assert dict(source(folder).load("train")[0]) == ROW
    assert not Marker(tmp_path).there


def test_a_data_card_that_declares_configurations_brings_no_script_to_life(folder, tmp_path):
    """The datasets library refuses such a folder altogether."""
    (folder / "train.jsonl").write_text(json.dumps(ROW) + "\n")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: train.jsonl\n---\n"
    )
    with pytest.raises(DataError, match="runs no code that comes with data"):
        source(folder).load("train")
    assert not Marker(tmp_path).there


def test_pickled_files_of_a_saved_data_set_are_not_read(tmp_path):
    import datasets

    marker = Marker(tmp_path)
    datasets.Dataset.from_list([ROW]).save_to_disk(tmp_path / "saved")
    for name in ("data.pkl", "state.pkl", "indices.bin"):
        (tmp_path / "saved" / name).write_bytes(marker.pickle)
    assert dict(source(tmp_path / "saved").load("train")[0]) == ROW
    assert not marker.there


def test_a_disk_is_not_looked_through_for_data(tmp_path, monkeypatch):
    monkeypatch.setattr("dpotrain_plugins.hf_datasets.places._MOST_INSIDE", 5)
    for number in range(6):
        (tmp_path / f"{number}.jsonl").write_text(json.dumps(ROW))
    with pytest.raises(DataError, match="more than 5 files and folders"):
        source(tmp_path).load("train")
    with pytest.raises(DataError, match="more than 5 files and folders match"):
        source(tmp_path / "*").load("train")
