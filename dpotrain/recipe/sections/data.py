"""The table ``[data]``."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from dpotrain.core.pair_columns import PAIR_COLUMNS
from dpotrain.core.template_arguments import without_taken
from dpotrain.recipe.mixture import SourceTable, label_fault
from dpotrain.recipe.sections.base import Section


class DataSection(Section):
    """The pairs to train and evaluate on. Keys that are not listed here belong to the dataset source."""

    format: str | dict[str, Any] = Field(
        "auto",
        description='A formatter\'s name, "auto" to detect it from the rows, or `{ use = "…", … }` with its options.',
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="The data's column for each of the formatter's: `{ prompt = \"question\" }`, and for each number "
        'of a pair: `{ weight = "votes" }`.',
    )
    ignore_columns: list[str] = Field(
        default_factory=list,
        description="Columns to leave out, such as one that holds an answer which is not to be trained on.",
    )
    train_split: str = Field("train", description="The split to train on.")
    eval_split: str | None = Field(None, description="The split to evaluate on.")
    eval_fraction: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Share of the training split's prompts held out for evaluation; 0 holds none out.",
    )
    limit: int | None = Field(None, ge=1, description="Number of rows to use of each split, from the first.")
    shuffle: bool = Field(
        True, description="Shuffle the pairs every epoch; false keeps the order of the rows."
    )
    max_length: int = Field(1024, ge=2, description="Maximum number of tokens of prompt + completion.")
    max_prompt_length: int | None = Field(
        None,
        ge=1,
        description="Maximum number of tokens of the prompt, less than `max_length`. A longer one is cut at its start, "
        'behind its BOS; with `truncation = "drop"` its pair is dropped.',
    )
    truncation: Literal["end", "start", "drop"] = Field(
        "end",
        description='What becomes of a pair longer than `max_length`: "end" cuts each completion at its end, "start" '
        'cuts the prompt at its start and leaves both completions whole, "drop" drops the pair. What cannot be cut is '
        "dropped, too, and counted.",
    )
    template_arguments: dict[str, Any] = Field(
        default_factory=dict,
        description="Variables for the chat template: `{ enable_thinking = false }`. A row may set its own in a column "
        "`template_arguments` or `chat_template_kwargs`.",
    )
    clock: str | None = Field(
        None,
        description='The time that a chat template with today\'s date in it reads, in ISO 8601: `"2026-01-31"`. Unless '
        "set, that of the run's start, also where it is resumed later.",
    )

    sources: list[SourceTable] = Field(
        default_factory=list,
        description="Several sources, `[[data.sources]]`, in the place of `use` and the keys of one. What is set here "
        "holds for all of them.",
    )

    _are_variables = field_validator("template_arguments")(without_taken)

    @field_validator("clock")
    @classmethod
    def _is_a_time(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                datetime.fromisoformat(value)
            except ValueError:
                raise ValueError(
                    "it is not a date and time in ISO 8601, such as 2026-01-31T12:00:00"
                ) from None
        return value

    @field_validator("eval_fraction")
    @classmethod
    def _none_of_nothing(cls, value: float | None) -> float | None:
        return value or None

    @property
    def pair_columns(self) -> frozenset[str]:
        """The columns that dpotrain itself reads (see :mod:`dpotrain.core.pair_columns`) and the recipe maps."""
        mapped = self.columns.keys() | {name for source in self.sources for name in source.columns}
        return frozenset(PAIR_COLUMNS) & mapped

    @property
    def has_evaluation_set(self) -> bool:
        """Whether pairs are held out."""
        own = any(source.eval_split is not None for source in self.sources)
        return own or self.eval_split is not None or self.eval_fraction is not None

    @model_validator(mode="after")
    def _one_evaluation_set(self) -> DataSection:
        if self.eval_split is not None and self.eval_fraction is not None:
            raise ValueError("eval_split and eval_fraction exclude each other; keep one")
        return self

    @model_validator(mode="after")
    def _room_for_answers(self) -> DataSection:
        if self.max_prompt_length is not None and self.max_prompt_length >= self.max_length:
            raise ValueError(
                f"max_prompt_length = {self.max_prompt_length} must be less than max_length = {self.max_length}, "
                "which bounds prompt + completion"
            )
        return self

    @model_validator(mode="after")
    def _different_labels(self) -> DataSection:
        if fault := label_fault(self.sources):
            raise ValueError(fault)
        return self
