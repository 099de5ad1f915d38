"""``[[data.sources]]``: several data sets in one, each with its own table, and how much of each an epoch takes."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from dpotrain.core.template_arguments import without_taken
from dpotrain.plugin.api import DatasetFormatter, DatasetSource
from dpotrain.plugin.api.nested import Beside, Use

#: The key of ``[data]`` that lists several sources in the place of one.
SOURCES = "sources"
#: ``format`` where the rows decide.
AUTO = "auto"
#: How a recipe says how much of a source an epoch takes; without any it takes all of it.
AMOUNTS = ("pairs", "fraction", "weight")
#: Endings of files of rows.
_ENDINGS = frozenset(
    {".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".gz", ".zst", ".bz2", ".xz"}
)


class SourceTable(Beside):
    """One source of a mixture: the keys of the dataset source, and these."""

    source: Use[DatasetSource] = Field(description="Where the rows come from.")
    label: str | None = Field(
        None,
        pattern=r"^[^/\s]+$",
        description="What its metrics are called, `eval/LABEL/loss`. Unless set, the last part of the source's `name` "
        "without its ending, or else its `use`.",
    )
    split: str | None = Field(None, description="The split to train on; `data.train_split` unless set.")
    eval_split: str | None = Field(
        None, description="The split to evaluate on; `data.eval_split` unless set."
    )
    columns: dict[str, str] = Field(
        default_factory=dict, description="Added to `data.columns`, before which they go."
    )
    ignore_columns: list[str] = Field(
        default_factory=list, description="Columns to leave out besides `data.ignore_columns`."
    )
    format: Literal["auto"] | Use[DatasetFormatter] | None = Field(
        None, description="How its rows are read; `data.format` unless set."
    )
    template_arguments: dict[str, Any] = Field(
        default_factory=dict,
        description="Variables for the chat template; they replace those of `data.template_arguments`.",
    )
    pairs: int | None = Field(
        None,
        ge=1,
        description="So many of its pairs in every epoch, others in each until all have been there.",
    )
    fraction: float | None = Field(
        None, gt=0, description="The same as a share of its pairs; more than 1 with `repeat` only."
    )
    weight: float | None = Field(
        None,
        gt=0,
        description="Its share in proportion to the other weights: an epoch takes as many pairs as there are until one "
        "of these sources, but those with `repeat`, is used up.",
    )
    repeat: bool = Field(
        False,
        description="Goes through its pairs again, in another order, where an epoch takes more than it has.",
    )

    _are_variables = field_validator("template_arguments")(without_taken)

    @model_validator(mode="after")
    def _one_amount(self) -> SourceTable:
        given = [name for name in AMOUNTS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other; keep one")
        if self.repeat and not given:
            raise ValueError("repeat has no effect without pairs, fraction or weight")
        if self.fraction is not None and self.fraction > 1 and not self.repeat:
            raise ValueError("fraction is more than 1, which needs repeat = true")
        return self

    @property
    def formatter(self) -> DatasetFormatter | None:
        """The one that ``format`` picks; None where it does not, or is "auto"."""
        return self.format if isinstance(self.format, DatasetFormatter) else None

    @property
    def called(self) -> str:
        """Its label, or what it is called without one."""
        if self.label is not None:
            return self.label
        return default_label(getattr(self.source.options, "name", None), self.source.name)


def default_label(name: Any, use: str) -> str:
    """Return what a source is called without a label, by its option ``name`` and its ``use``."""
    last = PurePath(name).name if isinstance(name, str | PurePath) else ""
    while (path := PurePath(last)).suffix.lower() in _ENDINGS:
        last = path.stem
    return last if last and not set(last) & set("*?[] ") else use


def label_fault(tables: list[SourceTable]) -> str:
    """Return what is wrong with the labels of a mixture, or an empty text."""
    called = [table.called for table in tables]
    twice = sorted({name for name in called if called.count(name) > 1})
    if not twice:
        return ""
    return f'several sources are called "{twice[0]}", and so would their metrics be; set a label for each of them'
