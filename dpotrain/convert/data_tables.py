"""Data sets as tables of the recipe: one is ``[data]``; several, or a part of one, are ``[[data.sources]]``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from dpotrain.convert.data_sets import TRAIN, DataSet, Part
from dpotrain.convert.translation import Translation
from dpotrain.recipe.foreign import Gap
from dpotrain.recipe.mixture import default_label

_SOURCE = "hf-datasets"


def write_data_sets(t: Translation, sets: Sequence[DataSet], *, held_out: float = 0.0) -> None:
    """Write ``[data]`` or ``[[data.sources]]``; the tool takes the share ``held_out`` off a number of rows."""
    if not sets:
        t.draft.set("data.use", _SOURCE)
    elif len(sets) == 1 and _fits_alone(sets[0]):
        _write_alone(t, sets[0])
    else:
        _set_labels(sets)
        for number, each in enumerate(sets):
            table = f"data.sources.{number}"
            t.draft.set(f"{table}.use", _SOURCE)
            for key, (value, comment) in each.keys.items():
                t.put(f"{table}.{key}", value, each.given, comment)
            if each.part is not None:
                _write_part(t, table, each.part, held_out)
        for part in {each.part.given.key: each.part for each in sets if each.part is not None}.values():
            _explain(t, part)


def _fits_alone(only: DataSet) -> bool:
    """Whether ``[data]`` says it all: ``data.limit`` would take rows of a split to evaluate on away, too."""
    return only.part is None or (only.part.rows is not None and only.get("eval_split") is None)


def _write_alone(t: Translation, only: DataSet) -> None:
    t.draft.set("data.use", _SOURCE)
    for key, (value, comment) in only.keys.items():
        t.put(f"data.{'train_split' if key == 'split' else key}", value, only.given, comment)
    if (part := only.part) is not None:
        t.draft.set("data.limit", part.rows, part.comment)
        if not part.first:
            t.notes.append(
                f"{part.given.key}: {t.tool.name} draws {part.rows} rows at random; data.limit takes the first "
                f"{part.rows}"
            )


def _write_part(t: Translation, table: str, part: Part, held_out: float) -> None:
    if part.rows is not None:
        held = int(part.rows * held_out)
        comment = f"{part.comment}, less the share that is held out" if held else part.comment
        t.draft.set(f"{table}.pairs", part.rows - held, comment)
    elif part.share is not None:
        t.draft.set(f"{table}.fraction", part.share, part.comment)
    else:
        t.draft.set(f"{table}.weight", part.weight, part.comment)
    if part.repeat:
        t.draft.set(f"{table}.repeat", True, "it begins again where it is used up")


def _explain(t: Translation, part: Part) -> None:
    """Say in what the pairs of a part are others than the tool's."""
    everything = part.weight is not None and part.repeat
    if not everything and not _trains_once(t):
        t.leave(
            part.given,
            Gap.NONE,
            f"{t.tool.name} trains on the same part in every epoch, dpotrain goes on to pairs that have not come yet",
        )
    elif part.first:
        t.notes.append(
            f"{part.given.key}: {t.tool.name} takes the first rows; dpotrain draws pairs by the seed"
        )


def _trains_once(t: Translation) -> bool:
    """Whether the tool passes over its data at most once."""
    values = {**t.tool.defaults, **t.configuration.values}
    passes, steps = values.get("num_epochs", values.get("num_train_epochs")), values.get("max_steps")
    limited = isinstance(steps, int) and steps > 0
    return isinstance(passes, int | float) and passes <= 1 and not limited


def _set_labels(sets: Sequence[DataSet]) -> None:
    """Set a ``label`` where a source would be called like another one, or by no name of its own."""
    called = [_called(each) for each in sets]
    taken: set[str] = set()
    for number, each in enumerate(sets):
        name = called[number]
        alike = [other for other, its in zip(sets, called, strict=True) if its == name]
        for apart in (_owner, _config, _split):
            if len({apart(other) for other in alike}) == len(alike) > 1:
                name = f"{apart(each)}-{name}" if apart is _owner else f"{name}-{apart(each)}"
                break
        name = re.sub(r"[/\s]+", "-", name).strip("-")
        last = next(last for last in ("", *(f"-{n}" for n in range(2, 999))) if f"{name}{last}" not in taken)
        taken.add(f"{name}{last}")
        if f"{name}{last}" != default_label(each.get("name"), _SOURCE):
            each.set("label", f"{name}{last}", "what its metrics are called")


def _called(each: DataSet) -> str:
    return default_label(_first(each), _SOURCE)


def _first(each: DataSet) -> Any:
    """Return a data set's name, of several files the first's."""
    name = each.get("name")
    name = name.get(TRAIN) if isinstance(name, dict) else name
    return name[0] if isinstance(name, list) and name else name


def _owner(each: DataSet) -> str:
    return PurePath(str(_first(each))).parent.name


def _config(each: DataSet) -> str:
    return str(each.get("config") or "default")


def _split(each: DataSet) -> str:
    return str(each.get("split") or TRAIN)
