"""The data sets of a configuration, how their rows are read, and how much of each is trained on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dpotrain.convert.translation import Given, Translation
from dpotrain.recipe.foreign import Gap

#: Files of rows, compressed or not.
_FILE = re.compile(r"\.(jsonl?|ndjson|[ct]sv|parquet)(\.(gz|zst))?$", re.IGNORECASE)
#: The first rows of a split, as ``load_dataset`` takes them: ``train[:1000]``, ``train[:50%]``.
_FIRST = re.compile(r"(?P<split>[\w.-]+)\[:(?P<end>\d+)(?P<percent>%?)\]")
#: The split of files that are named without one, and the default of every tool.
TRAIN = "train"


@dataclass(slots=True)
class Part:
    """How much of a data set the tool trains on: one of the three."""

    given: Given
    """The key that says it."""
    comment: str
    rows: int | None = None
    share: float | None = None
    weight: float | None = None
    repeat: bool = False
    """Whether it goes through the rows again where there are fewer."""
    first: bool = False
    """Whether these are the first rows, and not some that are drawn."""


@dataclass(slots=True)
class DataSet:
    """One data set, and how its rows are read."""

    given: Given
    """The key that names it."""
    keys: dict[str, tuple[Any, str]] = field(default_factory=dict)
    """Value and comment by the key of ``[[data.sources]]``."""
    part: Part | None = None

    def set(self, key: str, value: Any, comment: str) -> None:
        """Set a key, unless its value is None."""
        if value is not None:
            self.keys[key] = (value, comment)

    def get(self, key: str) -> Any:
        """Return the value of a key, or None."""
        return self.keys.get(key, (None,))[0]

    def set_split(self, t: Translation, split: Any, given: Given, comment: str) -> None:
        """Set the split, which may be the first rows of one; another expression is listed."""
        if split is None:
            return
        if found := _FIRST.fullmatch(str(split)):
            end = int(found["end"])
            share, rows = (end / 100, None) if found["percent"] else (None, end)
            self.set("split", found["split"], comment)
            self.part = Part(given, comment, rows=rows, share=share, first=True)
        elif set(str(split)) & set("[+"):
            t.leave(
                given, Gap.NONE, "a split is taken whole, or from its first row: train[:1000], train[:50%]"
            )
            self.set("split", re.split(r"[\[+]", str(split))[0], comment)
        else:
            self.set("split", split, comment)

    @property
    def files(self) -> list[str]:
        """The files that it consists of, whole; empty for all others."""
        name = self.get("name")
        names = [name] if isinstance(name, str) else name if isinstance(name, list) else []
        whole = self.get("split") in (None, TRAIN) and not self.get("config")
        return names if whole and all(isinstance(one, str) and _FILE.search(one) for one in names) else []


def interleave(
    t: Translation, sets: Sequence[DataSet], given: Given, probabilities: Given | None, *, repeat: bool
) -> list[DataSet]:
    """Let each of several data sets come by its probability, or all of them equally often.

    Until the first of them is used up, or with ``repeat`` until all of them are. Returns the data sets that can come.
    """
    weights = [1.0] * len(sets)
    if probabilities is not None:
        found = _numbers(probabilities.value)
        if len(found) == len(sets) and min(found) >= 0 < max(found):
            weights = found
            t.translated[probabilities.key] = "data.sources.0.weight"
            t.notes.append(
                f"{probabilities.key}: {t.tool.name} draws which data set comes next, so that their numbers vary; "
                "dpotrain takes exactly these proportions"
            )
        else:
            t.leave(
                probabilities,
                Gap.NONE,
                "a number for each data set is expected; the recipe takes all equally",
            )
    if not given.default_of:
        t.translated[given.key] = "data.sources.0.weight"
    said, comment = (
        (given, f"{given.key}, in turn") if probabilities is None else (probabilities, probabilities.key)
    )
    kept = []
    for each, weight in zip(sets, weights, strict=True):
        if weight == 0:
            never = Given(each.given.key, each.get("name"))
            t.leave(never, Gap.NOT_NEEDED, "its probability is 0, so that it never comes")
            continue
        if each.part is not None:
            t.leave(each.part.given, Gap.NONE, "a source has a weight or a number of pairs, not both")
        each.part = Part(said, comment, weight=weight, repeat=repeat, first=not repeat)
        kept.append(each)
    return kept


def _numbers(value: Any) -> list[float]:
    """Return numbers that a tool takes as a list, or as text with commas; empty where one is none."""
    items = value if isinstance(value, list) else str(value).split(",")
    try:
        return [float(item) for item in items]
    except (TypeError, ValueError):
        return []
