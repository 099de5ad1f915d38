"""Data that is evaluated on alone: another split of data that is trained on, or files beside files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dpotrain.convert.data_sets import TRAIN, DataSet
from dpotrain.convert.translation import Translation
from dpotrain.recipe.foreign import Gap

#: The split of files beside those that are trained on.
_TEST = "test"


def hold_out(t: Translation, sets: Sequence[DataSet], tests: Sequence[DataSet]) -> None:
    """Set ``eval_split`` of the data sets that are trained on by those that the tool evaluates on."""
    for test in tests:
        if test.part is not None:
            t.leave(test.part.given, Gap.SAME_TRAINING, "all rows of a split are evaluated on")
        if _is_another_split(sets, test) or _are_other_files(sets, test):
            t.translated[test.given.key.partition("[")[0]] = "data.eval_split"
        else:
            t.leave(
                test.given,
                Gap.NOT_SUPPORTED,
                "held-out pairs are another split of data that is trained on, or files that are read like the files "
                "that are trained on",
            )


def _is_another_split(sets: Sequence[DataSet], test: DataSet) -> bool:
    split = test.get("split") or TRAIN
    for each in sets:
        same = all(each.get(key) == test.get(key) for key in ("name", "config", "revision"))
        if same and not each.get("eval_split") and split != (each.get("split") or TRAIN):
            each.set("eval_split", split, test.given.key)
            return True
    return False


def _are_other_files(sets: Sequence[DataSet], test: DataSet) -> bool:
    """Set ``name = { train = …, test = … }`` where both are files that are read alike."""
    for each in sets:
        alike = all(each.get(key) == test.get(key) for key in ("format", "columns"))
        name, split = each.get("name"), each.get("eval_split")
        joined = isinstance(name, dict) and split == _TEST
        if not (test.files and alike and (joined or (each.files and split is None))):
            continue
        names = name if joined else {TRAIN: name}
        more = [*_listed(names.get(_TEST)), *test.files]
        _, comment = each.keys["name"]
        each.set("name", names | {_TEST: more[0] if len(more) == 1 else more}, f"{comment}; {test.given.key}")
        each.keys.pop("split", None)
        each.set("eval_split", _TEST, test.given.key)
        return True
    return False


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
