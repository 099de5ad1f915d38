"""Several data sets of another trainer become ``[[data.sources]]``, and what is held out becomes splits of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from dpotrain.recipe.load import load_recipe
from dpotrain.recipe.recipe import DataSet
from tests.convert.converting import made

AX, LF, SW = "axolotl", "llama-factory", "ms-swift"
ONCE = {"num_train_epochs": 1}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files of pairs, and LLaMA-Factory's names for them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    info: dict[str, Any] = {name: {"file_name": f"{name}.json"} for name in "abcd"}
    info["few"] = {"file_name": "a.json", "num_samples": 100}
    info["turns"] = {"file_name": "b.json", "formatting": "sharegpt"}
    info["talks"] = {"hf_hub_url": "org/talks", "formatting": "sharegpt", "split": "train[:50%]"}
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(info))
    for name in "abcd":
        (tmp_path / "data" / f"{name}.json").write_text("[]")
    return tmp_path


def data_sets(tool: str, keys: dict[str, Any]) -> list[DataSet]:
    converted = made(tool, keys)
    assert converted.fault == ""
    Path("r.toml").write_text(converted.text)
    return list(load_recipe("r.toml").data_sets)


def amount(one: DataSet) -> tuple[str, float] | None:
    """Return how much of a source an epoch takes, None for all of it."""
    table = one.amount
    assert table is not None
    found = [(key, getattr(table, key)) for key in ("pairs", "fraction", "weight") if getattr(table, key)]
    return found[0] if found else None


def lost(tool: str, keys: dict[str, Any]) -> dict[str, str]:
    return {each.key: each.reason for each in made(tool, keys).translation.lost}


@pytest.mark.parametrize(
    ("tool", "keys", "amounts", "repeat"),
    [
        ("trl", {"datasets": [{"path": "a"}, {"path": "b"}]}, [None, None], False),
        ("trl", {"dataset_mixture": {"datasets": [{"id": "a", "weight": 0.5}, {"id": "b", "weight": 1.0}]}},
         [("fraction", 0.5), None], False),
        ("trl", {"dataset_mixer": {"a": 0.5, "b": 0.25, "c": 0}}, [("fraction", 0.5), ("fraction", 0.25)], False),
        ("trl", {"dataset_mixer": {"a": 0.5}}, [("fraction", 0.5)], False),
        ("trl", {"datasets": [{"path": "a", "split": "train[:10%]"}, {"path": "b", "split": "train[:99]"}]},
         [("fraction", 0.1), ("pairs", 99)], False),
        (AX, {"datasets": [{"path": "a"}, {"path": "b", "split": "train[:99]"}]}, [None, ("pairs", 99)], False),
        (AX, {"datasets": [{"path": "a", "name": ["x", "y"]}]}, [None, None], False),
        (LF, {"dataset": "a,b"}, [None, None], False),
        (LF, {"dataset": "a,b", "mix_strategy": "concat"}, [None, None], False),
        (LF, {"dataset": "a,b", "mix_strategy": "interleave_once", "interleave_probs": "0.5,0.5"}, [None, None], False),
        (LF, {"dataset": "a,b", "mix_strategy": "interleave_under"}, [("weight", 1), ("weight", 1)], False),
        (LF, {"dataset": "a,b", "mix_strategy": "interleave_under", "interleave_probs": "0.7,0.3"},
         [("weight", 0.7), ("weight", 0.3)], False),
        (LF, {"dataset": "a,b,c", "mix_strategy": "interleave_over", "interleave_probs": "0.7,0.3,0"},
         [("weight", 0.7), ("weight", 0.3)], True),
        (LF, {"dataset": "few,b"}, [("pairs", 100), None], True),
        (LF, {"dataset": "few,b", "val_size": 0.1}, [("pairs", 90), None], True),
        (LF, {"dataset": "talks,b"}, [("fraction", 0.5), None], False),
        (SW, {"dataset": ["a#50", "b"]}, [("pairs", 50), None], True),
        (SW, {"dataset": ["a:x/y"]}, [None, None], False),
        (SW, {"dataset": ["a", "b"], "interleave_prob": [0.7, 0.3]}, [("weight", 0.7), ("weight", 0.3)], False),
        (SW, {"dataset": ["a", "b"], "interleave_prob": [0.7, 0.3], "stopping_strategy": "all_exhausted"},
         [("weight", 0.7), ("weight", 0.3)], True),
    ],
)  # fmt: skip
def test_several_data_sets_are_sources_in_the_tools_proportions(tool, keys, amounts, repeat):
    found = data_sets(tool, ONCE | keys)
    assert [amount(one) for one in found] == amounts
    assert found[0].amount is not None
    assert found[0].amount.repeat is repeat


def test_each_source_keeps_how_it_is_read():
    sets = [{"path": "a", "type": "chatml.icr", "name": "x"}, {"path": "b", "field_messages": "talk"}]
    first, second = data_sets(AX, {"datasets": sets})
    assert (first.formatter.name, second.formatter, second.columns) == (
        "question",
        None,
        {"messages": "talk"},
    )
    plain, talks = data_sets(LF, {"dataset": "a,talks"})
    assert (plain.formatter.name, talks.formatter.name) == ("alpaca", "sharegpt")
    assert (plain.source.options.name, talks.source.options.name) == ("data/a.json", "org/talks")


def test_one_data_set_stays_one_table():
    (one,) = data_sets("trl", {"datasets": [{"path": "a", "weight": 1.0, "split": "prefs"}]})
    assert (one.amount, one.train_split) == (None, "prefs")
    (one,) = data_sets(SW, {"dataset": ["a#50"]})
    assert one.amount is None
    assert load_recipe("r.toml").data.limit == 50


@pytest.mark.parametrize(
    ("tool", "keys", "labels"),
    [
        (SW, {"dataset": ["org/good", "org/bad"]}, ["good", "bad"]),
        (SW, {"dataset": ["me/good", "you/good"]}, ["me-good", "you-good"]),
        (SW, {"dataset": ["org/d:x/y"]}, ["d-x", "d-y"]),
        (SW, {"dataset": ["org/d", "org/d"]}, ["d", "d-2"]),
        (
            "trl",
            {"datasets": [{"path": "d", "split": "one"}, {"path": "d", "split": "two"}]},
            ["d-one", "d-two"],
        ),
        (LF, {"dataset": "a,b", "eval_dataset": "c"}, ["a", "b"]),
    ],
)
def test_sources_are_called_apart(tool, keys, labels):
    assert [one.label for one in data_sets(tool, keys)] == labels


@pytest.mark.parametrize(
    ("tool", "keys", "splits"),
    [
        ("trl", {"dataset_mixer": {"a": 1, "b": 1}, "dataset_splits": ["train_x", "test_x"], "eval_strategy": "steps"},
         [("train_x", "test_x"), ("train_x", "test_x")]),
        ("trl", {"dataset_mixer": {"a": 1, "b": 1}, "dataset_splits": ["train_x", "test_x"]},
         [("train_x", None), ("train_x", None)]),
        (AX, {"datasets": [{"path": "d"}, {"path": "e"}], "test_datasets": [{"path": "e", "split": "test"}]},
         [("train", None), ("train", "test")]),
    ],
)  # fmt: skip
def test_a_split_to_evaluate_on_is_one_of_its_source(tool, keys, splits):
    assert [(one.train_split, one.eval_split) for one in data_sets(tool, keys)] == splits


def test_files_to_evaluate_on_are_the_test_split_of_files_that_are_read_alike():
    first, second = data_sets(LF, {"dataset": "talks,a", "eval_dataset": "c,d"})
    assert (first.eval_split, second.eval_split) == (None, "test")
    assert second.source.options.name == {"train": "data/a.json", "test": ["data/c.json", "data/d.json"]}
    (alone,) = data_sets(LF, {"dataset": "a", "eval_dataset": "c"})
    assert alone.amount is None
    assert alone.source.options.name == {"train": "data/a.json", "test": "data/c.json"}
    for other in ("talks", "turns"):
        assert list(lost(LF, {"dataset": "a", "eval_dataset": other})) == ["eval_dataset"]


def test_rows_of_a_data_set_with_files_to_evaluate_on_are_not_cut_by_a_limit_for_both():
    (one,) = data_sets(LF, {"dataset": "few", "eval_dataset": "c"})
    assert (amount(one), one.eval_split) == (("pairs", 100), "test")
    assert load_recipe("r.toml").data.limit is None


@pytest.mark.parametrize(
    ("tool", "keys", "key"),
    [
        (
            "trl",
            {"dataset_mixture": {"datasets": [{"id": "a", "weight": 0.5}]}},
            "dataset_mixture[0]: weight",
        ),
        (LF, {"dataset": "a,b", "mix_strategy": "interleave_under"}, "mix_strategy"),
        (LF, {"dataset": "few,b"}, "dataset: few"),
    ],
)
def test_a_part_in_several_epochs_is_another_training(tool, keys, key):
    assert "goes on to pairs that have not come yet" in lost(tool, keys)[key]
    assert key not in lost(tool, keys | ONCE)
    assert key in lost(tool, keys | ONCE | {"max_steps": 10})


def test_going_on_until_all_are_used_up_is_the_same_in_several_epochs():
    keys = {"dataset": "a,b", "mix_strategy": "interleave_over", "interleave_probs": "0.7,0.3"}
    assert lost(LF, keys).keys() <= {"template"}
    (note,) = [text for text in made(LF, keys).translation.notes if text.startswith("interleave_probs")]
    assert "dpotrain takes exactly these proportions" in note


def test_first_rows_are_said():
    notes = made("trl", ONCE | {"dataset_mixer": {"a": 0.5, "b": 1}}).translation.notes
    assert "dataset_mixer: a: TRL takes the first rows; dpotrain draws pairs by the seed" in notes


def test_what_is_split_off_is_not_trained_on_without_evaluations_either():
    converted = made("trl", {"datasets": [{"path": "a"}, {"path": "b"}], "test_split_size": 0.1})
    assert "eval_fraction = 0.1" in converted.text


def test_deduplication_leaves_a_data_set_that_is_there_twice_once():
    twice = {"datasets": [{"path": "d"}, {"path": "d"}]}
    assert len(data_sets(AX, twice)) == 2
    assert len(data_sets(AX, twice | {"dataset_exact_deduplication": True})) == 1
