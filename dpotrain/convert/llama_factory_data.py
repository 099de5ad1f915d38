"""LLaMA-Factory's data: names of ``dataset_info.json``, how several are mixed, and what is evaluated on.

``concat`` takes all rows of all data sets, and so does ``interleave_once``, in another order. ``interleave_under``
stops when the first of them is used up, ``interleave_over`` when all are; both draw by ``interleave_probs``, or take
them in turn.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dpotrain.convert.data_sets import DataSet, Part, interleave
from dpotrain.convert.data_tables import write_data_sets
from dpotrain.convert.held_out import hold_out
from dpotrain.convert.translation import Given, Translation, as_names
from dpotrain.recipe.foreign import Gap


def data(t: Translation) -> None:
    """Write ``[data]`` or ``[[data.sources]]``."""
    given, tests, folder = t.take("dataset"), t.take("eval_dataset"), t.take("dataset_dir")
    assert folder is not None
    sets = [] if given is None else _named(t, given, str(folder.value))
    sets = _mixed(t, sets)
    if tests is not None:
        hold_out(t, sets, _named(t, tests, str(folder.value)))
    size = t.configuration.values.get("val_size")
    share = float(size) if isinstance(size, int | float) and 0 <= size < 1 else 0.0
    write_data_sets(t, sets, held_out=share)
    if not folder.default_of:
        t.translated[folder.key] = "data.name"
    template = t.take("template")
    if template is not None:
        reason = "the tokenizer's own chat template writes the turns; compare with dpotrain check"
        t.leave(template, Gap.NONE, reason)
    t.move("data.limit", "max_samples")
    t.move("data.max_length", "cutoff_len")


def _mixed(t: Translation, sets: Sequence[DataSet]) -> list[DataSet]:
    """Return the data sets with the amounts that ``mix_strategy`` makes them come in."""
    strategy, probabilities = t.take("mix_strategy"), t.take("interleave_probs")
    if strategy is None or len(sets) < 2 or strategy.value not in ("interleave_under", "interleave_over"):
        alone = len(sets) < 2
        known = strategy is None or strategy.value in ("concat", "interleave_once")
        if strategy is not None:
            if alone:
                t.leave(strategy, Gap.NOT_NEEDED, "there is one data set")
            elif known:
                t.translated[strategy.key] = "[[data.sources]]"
            else:
                t.leave(
                    strategy, Gap.NONE, "it is concat, interleave_under, interleave_over or interleave_once"
                )
        if probabilities is not None:
            t.leave(probabilities, Gap.NOT_NEEDED, "every row of every data set comes once an epoch")
        return list(sets)
    return interleave(t, sets, strategy, probabilities, repeat=strategy.value == "interleave_over")


def _named(t: Translation, given: Given, folder: str) -> list[DataSet]:
    """Return data sets by their names; those that are not found are listed."""
    names = as_names(given.value)
    found = [_described(name, Path(folder), t.configuration.folder) for name in names]
    missing = [name for name, entry in zip(names, found, strict=True) if entry is None]
    if missing:
        t.leave(
            Given(given.key, ",".join(missing)),
            Gap.NONE,
            f"{folder}/dataset_info.json, which says what it is, was not found: set data.name"
            if len(names) == 1
            else f"{folder}/dataset_info.json, which says what it is, was not found: set the name of its source",
        )
    return [_data_set(t, given, name, entry) for name, entry in zip(names, found, strict=True)]


def _data_set(t: Translation, given: Given, name: str, entry: tuple[Path, dict[str, Any]] | None) -> DataSet:
    """Return what ``dataset_info.json`` says of a data set."""
    one = DataSet(Given(given.key, name))
    if entry is None:
        missing = "a name of dataset_info.json: set the file, folder or hub name it stands for"
        one.set("name", name, missing)
        return one
    path, info = entry
    where = info.get("hf_hub_url") or str(path.parent / info.get("file_name", name))
    one.set("name", where, f"{given.key} {name}, by {path}")
    one.set("config", info.get("subset") or None, "dataset_info.json: subset")
    if info.get("hf_hub_url"):
        one.set("revision", info.get("revision") or None, "dataset_info.json: revision")
    split = info.get("split") or None
    one.set_split(t, split, Given(f"{given.key}: split", split), "dataset_info.json: split")
    rows = info.get("num_samples")
    if isinstance(rows, int) and rows > 0:
        comment = "dataset_info.json: num_samples"
        one.part = Part(Given(f"{given.key}: {name}", f"{rows} rows"), comment, rows=rows, repeat=True)
    sharegpt = info.get("formatting") == "sharegpt"
    renamed = {"messages": "conversations"} if sharegpt else {"prompt": "instruction", "query": "input"}
    columns = {
        renamed.get(key, key): column
        for key, column in info.get("columns", {}).items()
        if column and renamed.get(key, key) != column and key in (*renamed, "chosen", "rejected", "system")
    }
    one.set("format", "sharegpt" if sharegpt else "alpaca", "dataset_info.json: formatting")
    one.set("columns", columns or None, "dataset_info.json: columns")
    return one


def _described(name: str, folder: Path, beside: Path) -> tuple[Path, dict[str, Any]] | None:
    for path in (folder / "dataset_info.json", beside / folder / "dataset_info.json"):
        try:
            info = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(info, dict) and isinstance(info.get(name), dict):
            return path, info[name]
    return None
