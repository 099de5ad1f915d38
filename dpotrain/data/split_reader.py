"""One split of one source: its rows under canonical column names, and how they become tokenized pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dpotrain.core.errors import DataError, RecipeError, did_you_mean
from dpotrain.core.pair_columns import PAIR_COLUMNS
from dpotrain.core.reporter import Reporter
from dpotrain.core.template_arguments import COLUMNS as ARGUMENTS
from dpotrain.data.formats.choose_formatter import Decision, choose_formatter
from dpotrain.data.formats.columns import MappedRows, map_columns
from dpotrain.data.report import nothing_left
from dpotrain.data.split_report import SplitReport
from dpotrain.data.tokens.chat_template import TemplateInputs, check_arguments
from dpotrain.data.tokens.limits import Limits
from dpotrain.data.tokens.tokenize_pairs import PairTokenizer
from dpotrain.data.tokens.tokenize_rows import RowTokenizer
from dpotrain.plugin.api import Callback, DatasetFormatter, Loss, Metric
from dpotrain.recipe.recipe import DataSet, Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PREVIEWED = 3  # pairs that a preview returns


@dataclass(frozen=True, slots=True)
class SplitReader:
    """A split through its formatter and the tokenizer."""

    name: str
    """What reports call it: ``train``, or ``helpful/train`` in a mixture."""
    split: str
    """What its source calls it."""
    data_set: DataSet
    source: int
    """Number of its source in the recipe."""
    evaluated: bool
    """Whether all of its pairs are held out."""
    rows: MappedRows
    decision: Decision
    tokenize: RowTokenizer
    inputs: TemplateInputs

    @property
    def decided_by(self) -> str:
        """How its formatter was chosen, as text."""
        return self.data_set.named(self.decision.text)


def split_readers(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    inputs: TemplateInputs,
    reporter: Reporter,
    *,
    preview: int | None,
) -> Iterator[SplitReader]:
    """Yield the splits of all sources, and decide how their rows are read; see :func:`.prepare_data`.

    The formatter that the rows of a source's training split decide is that of its evaluation split.
    """
    data = recipe.data
    limit = min((n for n in (data.limit, preview) if n is not None), default=None)
    needed = _columns_needed(recipe)
    limits = Limits.of(data)
    for number, each in enumerate(recipe.data_sets):
        with naming(each):
            if each.eval_split is not None and each.eval_split == each.train_split:
                raise RecipeError(
                    f'{each.address}.eval_split = "{each.eval_split}" is also the split to train on.\n'
                    "Set it to another split, or hold part of this one out with data.eval_fraction."
                )
            rows = _load(each, each.train_split, limit, limits)
            others = {*needed, *ARGUMENTS}
            for_formatter = {name: actual for name, actual in each.columns.items() if name not in others}
            decision = choose_formatter(rows, recipe.plugins.formatters(), each.formatter, for_formatter)
            reporter.note(each.named(decision.text))
            if decision.warning:
                reporter.warn(each.named(decision.warning))
            _check_needed(needed, decision.formatter, rows, each)
            shown = 0 if preview is None else _PREVIEWED
            check_arguments(tokenizer, each.template_arguments, f"{each.address}.template_arguments")
            own = replace(inputs, arguments={**inputs.arguments, **each.template_arguments})
            pairs = PairTokenizer(tokenizer, limits, own)
            tokenize = RowTokenizer(decision.formatter, pairs, shown, tuple(needed))
            splits = {each.train_split: rows}
            if each.eval_split is not None:
                splits[each.eval_split] = _load(each, each.eval_split, limit, limits)
        for split, rows in splits.items():
            yield SplitReader(
                name=each.split_name(split),
                split=split,
                data_set=each,
                source=number,
                evaluated=split == each.eval_split,
                rows=rows,
                decision=decision,
                tokenize=tokenize,
                inputs=own,
            )


def _columns_needed(recipe: Recipe) -> dict[str, str]:
    """Return the columns whose numbers the pairs keep, each with the first that asks for it."""
    parts = [part for part in recipe.components if isinstance(part, Loss | Metric | Callback)]
    mapped = {name: "[data.columns]" for name in PAIR_COLUMNS if name in recipe.data.pair_columns}
    return mapped | {
        name: f'{part.kind} "{part.name}"' for part in reversed(parts) for name in reversed(part.columns)
    }


def _check_needed(
    needed: Mapping[str, str], formatter: DatasetFormatter, rows: MappedRows, of: DataSet
) -> None:
    """Raise a DataError for a column that is needed, and that neither the data nor the formatter has."""
    for name, asking in needed.items():
        if rows.columns and name not in rows.columns and name not in formatter.numbers:
            raise DataError(
                f'{asking} needs the column "{name}", which the data does not have'
                f"{did_you_mean(name, rows.columns)}\n"
                f"Its columns are: {', '.join(rows.columns)}. Set {of.address}.columns.{name} to the one that holds it."
            )


def _load(of: DataSet, split: str, limit: int | None, limits: Limits) -> MappedRows:
    """Return a split's rows under canonical column names."""
    rows = of.source.load(split)
    if not len(rows):
        raise DataError(nothing_left(split, SplitReport(), limits))
    return map_columns(rows, of.columns, limit, split, of.ignore_columns, of.source)


@contextmanager
def naming(data_set: DataSet) -> Iterator[None]:
    """Name the source of a mixture in errors of its data."""
    try:
        yield
    except DataError as error:
        if not data_set.label:
            raise
        raise DataError(f"{data_set.label} ({data_set.address}): {error}") from error
