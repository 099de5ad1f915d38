"""TRL's data: ``dataset_name``, its list ``datasets``, and the alignment handbook's mixtures.

The handbook's ``dataset_mixture`` has shares of rows that it draws once; its older ``dataset_mixer`` takes the first
rows, and all rows of the splits to evaluate on. TRL's own ``datasets`` are joined whole.
"""

from __future__ import annotations

from typing import Any

from dpotrain.convert import trainer
from dpotrain.convert.data_sets import DataSet, Part
from dpotrain.convert.data_tables import write_data_sets
from dpotrain.convert.translation import Given, Translation
from dpotrain.recipe.foreign import Gap

#: What ``load_dataset`` takes for the name of a data set where files are given.
_BUILDERS = ("json", "csv", "parquet")
#: Keys of one data set, which are ignored beside several.
_OF_ONE = ("dataset_name", "dataset", "dataset_config", "dataset_train_split", "dataset_test_split")


def data(t: Translation) -> None:
    """Write ``[data]`` or ``[[data.sources]]``, and when the held-out pairs are evaluated."""
    evaluates = trainer.evaluation(t)
    mixture, mixer = t.take("dataset_mixture", "datasets"), t.take("dataset_mixer")
    if mixture is not None:
        _ignore_single(t, mixture)
        _mixture(t, mixture)
    elif mixer is not None:
        _ignore_single(t, mixer)
        _mixer(t, mixer, evaluates)
    else:
        _one(t, evaluates)


def _ignore_single(t: Translation, several: Given) -> None:
    for key in _OF_ONE:
        if t.has(key) and (given := t.take(key)):
            t.leave(given, Gap.NOT_NEEDED, f"it has no effect beside {several.key}")


def _one(t: Translation, evaluates: bool) -> None:
    given, test = t.take("dataset_name", "dataset"), t.take("dataset_test_split")
    if given is None:
        write_data_sets(t, [])
        return
    only = DataSet(given)
    only.set("name", given.value, given.key)
    write_data_sets(t, [only])
    t.move("data.config", "dataset_config")
    t.move("data.train_split", "dataset_train_split")
    if test is not None and evaluates:
        t.put("data.eval_split", test.value, test)
    elif test is not None:
        t.leave(test, Gap.NOT_NEEDED, "without an eval_strategy nothing is evaluated")


def _mixture(t: Translation, given: Given) -> None:
    whole = given.value if isinstance(given.value, dict) else {"datasets": given.value}
    listed = whole.get("datasets")
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    if not entries:
        t.leave(given, Gap.NONE, "a list of tables, each with a path, is expected")
    found = [_entry(t, given, f"{given.key}[{number}]", entry) for number, entry in enumerate(entries)]
    size, inside = t.take("test_split_size"), whole.get("test_split_size")
    if size is None and inside is not None:
        size = Given(f"{given.key}: test_split_size", inside)
    share = size.value if size is not None and isinstance(size.value, float) and 0 < size.value < 1 else 0.0
    write_data_sets(t, [each for each in found if each is not None], held_out=share)
    if size is not None and share:
        t.put("data.eval_fraction", share, size)
    elif size is not None:
        t.leave(size, Gap.NONE, "data.eval_fraction is a share: set it to this number over that of the rows")
        t.draft.set("data.eval_fraction", 0.05, "test_split_size is a number of rows: set the share it is")


def _entry(t: Translation, given: Given, place: str, whole: dict[str, Any]) -> DataSet | None:
    """Return one data set of a list; None where nothing is taken of it."""
    entry = dict(whole)
    own = "path" in entry  # TRL's, where ``name`` is the configuration
    one = DataSet(given)
    name = entry.pop("path", None) or entry.pop("id", None) or ""
    files = entry.pop("data_files", None) or entry.pop("data_dir", None)
    if files is not None and name in _BUILDERS:
        name = files
    elif files is not None:
        t.leave(
            Given(f"{place}: data_files", files), Gap.NONE, "a hub data set is read whole; download the files"
        )
    one.set("name", name, f"{given.key}: {'path' if own else 'id'}")
    config = entry.pop("name" if own else "config", None)
    one.set("config", None if config == "default" else config, f"{given.key}: {'name' if own else 'config'}")
    split = entry.pop("split", None)
    one.set_split(t, split, Given(f"{place}: split", split), f"{given.key}: split")
    entry.pop("columns", None)  # a selection, as the formatter makes one
    weight = entry.pop("weight", entry.pop("fraction", None))
    if weight is not None and not _take_share(t, one, Given(f"{place}: weight", weight)):
        return None
    for key, value in entry.items():
        t.leave(Given(f"{place}: {key}", value), Gap.NONE, "dpotrain does not know this key")
    return one


def _mixer(t: Translation, given: Given, evaluates: bool) -> None:
    splits, configurations = t.take("dataset_splits"), t.take("dataset_configs")
    shares = given.value if isinstance(given.value, dict) else {}
    if not shares:
        t.leave(given, Gap.NONE, "a table of data sets, each with its share, is expected")
    names = splits.value if splits is not None and isinstance(splits.value, list) else ["train", "test"]
    train = [str(name) for name in names if "test" not in str(name)]
    held_out = [str(name) for name in names if "test" in str(name)]
    subsets = configurations.value if configurations is not None else None
    found = []
    for number, (name, share) in enumerate(shares.items()):
        one = DataSet(given)
        one.set("name", name, given.key)
        if isinstance(subsets, list) and number < len(subsets):
            one.set("config", subsets[number], "dataset_configs")
        if train and splits is not None:
            one.set("split", train[0], splits.key)
        if held_out and evaluates:
            one.set("eval_split", held_out[0], "dataset_splits")
        if _take_share(t, one, Given(f"{given.key}: {name}", share), first=True):
            found.append(one)
    write_data_sets(t, found)
    for more in filter(None, (splits, configurations)):
        t.translated[more.key] = "data.train_split"
    if splits is not None and len(train) > 1:
        t.leave(splits, Gap.NOT_SUPPORTED, f"of each data set one split is trained on, {train[0]}")


def _take_share(t: Translation, one: DataSet, given: Given, *, first: bool = False) -> bool:
    """Set which share of a data set is trained on; return whether any is."""
    share = given.value
    if isinstance(share, bool) or not isinstance(share, int | float) or share > 1:
        t.leave(given, Gap.NONE, "a share is a number from 0 to 1; the data set is taken whole")
    elif share <= 0:
        t.leave(given, Gap.NOT_NEEDED, "nothing of it is trained on")
        return False
    elif share < 1:
        if one.part is not None:
            t.leave(one.part.given, Gap.NONE, "a source has one amount; this is a share of another part")
        one.part = Part(given, given.key, share=float(share), first=first)
    return True
