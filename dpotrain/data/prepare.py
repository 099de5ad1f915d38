"""From the recipe's ``[data]`` table to tokenized pairs: read, format, tokenize, split, report.

Every process runs this by itself and gets the same result, so that none waits in a collective while another
tokenizes.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dpotrain.data.accumulate import PairColumns, take
from dpotrain.data.checks import check_pair
from dpotrain.data.columns import MappedRows, map_columns
from dpotrain.data.formatting import choose_formatter, format_row
from dpotrain.data.pair import PreferencePair, UnusableRow
from dpotrain.data.report import DataReport, SplitReport, nothing_left, quantiles
from dpotrain.data.split import held_out, prompt_key
from dpotrain.data.tokenize import PairTokenizer
from dpotrain.data.tokenized import TokenizedPairs
from dpotrain.errors import DataError, RecipeError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dpotrain.plugin.components import DatasetFormatter, Rows
    from dpotrain.recipe.recipe import Recipe
    from dpotrain.run.reporter import Reporter

#: Rows formatted and tokenized at a time: enough for the tokenizer to use every core.
_BATCH = 128

#: Pairs that a preview shows.
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class PreparedData:
    """What the run trains and evaluates on."""

    train: TokenizedPairs
    evaluation: TokenizedPairs | None
    report: DataReport
    """What ``data_report.json`` holds, and the lines a person reads."""
    formatter: str
    """Name of the formatter, the recipe's own or the one that ``format = "auto"`` decided on."""
    preview: tuple[PreferencePair, ...] = ()
    """The first few usable pairs as formatted; only where a preview was asked for."""


def prepare_data(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, reporter: Reporter, *, preview: int | None = None
) -> PreparedData:
    """Read, format, tokenize and split the recipe's data.

    ``preview`` looks at the first so many rows of each split only. A split's ``data.limit`` applies to its
    rows, before any is dropped.

    Raises DataError where the data cannot be found, is of no known shape, or leaves no pair to train on, and
    RecipeError where ``[data]`` contradicts itself or the data.
    """
    data = recipe.data
    if data.eval_split is not None and data.eval_split == data.train_split:
        raise RecipeError(
            f'data.eval_split = "{data.eval_split}" is the split that is trained on.\n'
            "Name another split, or keep a part of this one back with data.eval_fraction."
        )
    limit = min((n for n in (data.limit, preview) if n is not None), default=None)
    rows = _load(recipe, data.train_split, limit)
    decision = choose_formatter(rows, recipe.plugins.formatters(), recipe.formatter, data.columns)
    reporter.note(decision.text)
    if decision.warning:
        reporter.warn(decision.warning)
    formatter, pair_tokenizer = decision.formatter, PairTokenizer(tokenizer, data.max_length)

    read = _read(rows, formatter, pair_tokenizer, reporter)
    if not len(read.pairs):
        raise DataError(nothing_left(data.train_split, read.report, data.max_length))
    report = DataReport(
        format=formatter.name,
        decided_by=decision.text,
        max_length=data.max_length,
        splits={data.train_split: read.report},
        fingerprints={data.train_split: rows.fingerprint},
    )
    train, evaluation = read.pairs, None
    if data.eval_fraction is not None:
        train, evaluation = _hold_out(read, data.eval_fraction, recipe.seed, reporter)
    elif data.eval_split is not None:
        rows = _load(recipe, data.eval_split, limit)
        held = _read(rows, formatter, pair_tokenizer, reporter)
        if not len(held.pairs):
            raise DataError(nothing_left(data.eval_split, held.report, data.max_length))
        evaluation = held.pairs
        report.splits[data.eval_split] = held.report
        report.fingerprints[data.eval_split] = rows.fingerprint
        report.shared_prompts = len(set(read.prompts) & set(held.prompts))
    report.train_pairs = len(train)
    report.evaluation_pairs = None if evaluation is None else len(evaluation)
    for warning in report.warnings():
        reporter.warn(warning)
    shown = () if preview is None else tuple(read.shown)
    return PreparedData(train, evaluation, report, formatter.name, shown)


def _load(recipe: Recipe, split: str, limit: int | None) -> MappedRows:
    """Return a split's rows under canonical column names."""
    rows = recipe.source.load(split)
    if not len(rows):
        raise DataError(nothing_left(split, SplitReport(), recipe.data.max_length))
    return map_columns(rows, recipe.data.columns, limit, split)


@dataclass(slots=True)
class _Split:
    """One split's pairs, as far as they are usable."""

    pairs: TokenizedPairs
    prompts: list[bytes]
    """The :func:`prompt_key` of each pair."""
    report: SplitReport
    shown: list[PreferencePair]


def _read(rows: Rows, formatter: DatasetFormatter, tokenizer: PairTokenizer, reporter: Reporter) -> _Split:
    """Format and tokenize all rows, counting those that are dropped."""
    report = SplitReport(rows_read=len(rows))
    columns = PairColumns()
    prompts: list[bytes] = []
    shown: list[PreferencePair] = []
    uncut = array("q")
    with reporter.phase("tokenizing", len(rows)) as advance:
        for start in range(0, len(rows), _BATCH):
            numbers = range(start, min(start + _BATCH, len(rows)))
            usable = list(_formatted(rows, numbers, formatter, report))
            for (row, pair), result in zip(usable, tokenizer(usable), strict=True):
                if result.uncut is not None:
                    uncut.extend(result.uncut)
                if result.pair is None:
                    report.drop(row, result.reason)
                    continue
                report.boundaries_moved += result.boundary_moved
                report.completions_cut += result.completions_cut
                report.turns_unscored += result.turns_unscored
                report.open_ended += result.open_ended
                columns.append(result.pair)
                prompts.append(prompt_key(pair.prompt))
                if len(shown) < _SHOWN:
                    shown.append(pair)
            advance(len(numbers))
    pairs = columns.finish()
    report.pairs_kept = len(pairs)
    report.lengths = quantiles(pairs.prompt_lengths, pairs.chosen_lengths, pairs.rejected_lengths)
    if uncut:
        by_part = np.frombuffer(uncut, np.int64).reshape(-1, 3).T
        report.uncut_lengths = quantiles(*by_part)
        report.shortest_prompt = int(by_part[0].min())
    return _Split(pairs, prompts, report, shown)


def _formatted(
    rows: Rows, numbers: Iterable[int], formatter: DatasetFormatter, report: SplitReport
) -> Iterator[tuple[int, PreferencePair]]:
    """Yield the usable pairs of these rows with their row numbers; count the others."""
    for number in numbers:
        try:
            pair = format_row(formatter, rows[number], number)
            check_pair(pair)
        except UnusableRow as error:
            report.drop(number, str(error))
        else:
            yield number, pair


def _hold_out(
    split: _Split, fraction: float, seed: int, reporter: Reporter
) -> tuple[TokenizedPairs, TokenizedPairs | None]:
    """Return training and evaluation pairs that share no prompt."""
    evaluated = held_out(split.prompts, fraction, seed)
    if not evaluated.any():
        reporter.warn(
            "All pairs have the same prompt, so none can be held out for evaluation (data.eval_fraction)."
        )
        return split.pairs, None
    return take(split.pairs, np.flatnonzero(~evaluated)), take(split.pairs, np.flatnonzero(evaluated))
