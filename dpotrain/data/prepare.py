"""From the recipe's ``[data]`` table to tokenized pairs: read, format, tokenize, split, report.

Every process runs this and gets the same result; with a cache, one of a machine tokenizes and the others read.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dpotrain.core.errors import DataError, RecipeError, did_you_mean
from dpotrain.core.pair import PreferencePair
from dpotrain.core.reporter import Reporter
from dpotrain.core.write_errors import WriteError
from dpotrain.data.formats.choose_formatter import choose_formatter
from dpotrain.data.formats.columns import MappedRows, map_columns
from dpotrain.data.report import DataReport, SplitReport, nothing_left
from dpotrain.data.split import held_out
from dpotrain.data.tokens.cache import TokenCache
from dpotrain.data.tokens.cache_key import cache_key
from dpotrain.data.tokens.chat_template import TemplateInputs, check_default, reads_clock
from dpotrain.data.tokens.keys import sortable
from dpotrain.data.tokens.tokenize_pairs import PairTokenizer
from dpotrain.data.tokens.tokenize_rows import RowTokenizer
from dpotrain.data.tokens.tokenize_split import SplitInfo, TokenizedSplit, open_split, tokenize_split
from dpotrain.data.tokens.tokenized import TokenizedPair, TokenizedPairs
from dpotrain.data.tokens.workers import cores
from dpotrain.plugin.api import DatasetFormatter, Loss, Metric
from dpotrain.recipe.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PREVIEWED = 3  # pairs that a preview returns


@dataclass(frozen=True, slots=True)
class PreparedData:
    """What the run trains and evaluates on."""

    train: TokenizedPairs
    evaluation: TokenizedPairs | None
    report: DataReport
    """What ``data_report.json`` holds, also as lines of text."""
    formatter: str
    """Name of the formatter, the recipe's own or the one that ``format = "auto"`` chose."""
    preview: tuple[PreferencePair, ...] = ()
    """The first few pairs as formatted, where a preview was asked for."""

    def longest(self) -> TokenizedPair:
        """Return the pair with the longest sequence of all that are trained or evaluated on."""
        sets = [self.train, *[data for data in [self.evaluation] if data is not None]]
        return max((data[int(data.longest_sequences.argmax())] for data in sets), key=TokenizedPair.longest)


def prepare_data(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    reporter: Reporter,
    *,
    cache: Path | None = None,
    preview: int | None = None,
    clock: str | None = None,
) -> PreparedData:
    """Read, format, tokenize and split the recipe's data.

    ``cache`` is the folder that keeps the tokens for later runs. Without one they are in temporary files, removed with
    the process. ``preview`` reads only that many rows of each split, without the cache. ``data.limit`` counts a split's
    rows, before any is dropped. ``clock`` is the time that a chat template reads, in ISO 8601, where the recipe does
    not set it; without either it is that of this call.

    Raises DataError where the data cannot be found, is of no known shape, or leaves no pair to train on, and
        RecipeError where ``[data]`` contradicts itself or the data.
    """
    data = recipe.data
    if data.eval_split is not None and data.eval_split == data.train_split:
        raise RecipeError(
            f'data.eval_split = "{data.eval_split}" is also data.train_split.\n'
            "Set data.eval_split to another split, or hold part of this one out with data.eval_fraction."
        )
    check_default(tokenizer)
    limit = min((n for n in (data.limit, preview) if n is not None), default=None)
    rows = _load(recipe, data.train_split, limit)
    needed = _columns_needed(recipe)
    for_formatter = {name: actual for name, actual in data.columns.items() if name not in needed}
    decision = choose_formatter(rows, recipe.plugins.formatters(), recipe.formatter, for_formatter)
    reporter.note(decision.text)
    if decision.warning:
        reporter.warn(decision.warning)
    formatter = decision.formatter
    _check_needed(needed, formatter, rows)
    previewed = 0 if preview is None else _PREVIEWED
    clock = data.clock or clock or datetime.now().isoformat()
    inputs = TemplateInputs(recipe.model.chat_template_arguments, datetime.fromisoformat(clock))
    tokenize = RowTokenizer(
        formatter, PairTokenizer(tokenizer, data.max_length, inputs), previewed, tuple(needed)
    )
    source = _Source(recipe, tokenizer, tokenize, inputs, None if preview is not None else cache, reporter)

    split = source.split(rows, data.train_split)
    report = DataReport(
        format=formatter.name,
        decided_by=decision.text,
        max_length=data.max_length,
        splits={data.train_split: split.report},
        fingerprints={data.train_split: rows.fingerprint},
    )
    train, evaluation = split.pairs, None
    if data.eval_fraction is not None:
        train, evaluation = _hold_out(split, data.eval_fraction, recipe.seed, reporter)
    elif data.eval_split is not None:
        rows = _load(recipe, data.eval_split, limit)
        held = source.split(rows, data.eval_split)
        evaluation = held.pairs
        report.splits[data.eval_split] = held.report
        report.fingerprints[data.eval_split] = rows.fingerprint
        report.shared_prompts = len(np.intersect1d(sortable(split.prompts), sortable(held.prompts)))
    if reads_clock(tokenizer) and any(
        split.pairs_kept > split.plain_text for split in report.splits.values()
    ):
        report.clock = clock
    report.train_pairs = len(train)
    report.evaluation_pairs = None if evaluation is None else len(evaluation)
    for warning in report.warnings():
        reporter.warn(warning)
    plain = sum(split.plain_text for split in report.splits.values())
    if plain and tokenizer.chat_template and recipe.formatter is None:
        reporter.warn(
            f"{plain} pairs are plain text and are trained on as they stand, although the model has a chat template.\n"
            'Set data.format = "question" if the prompts are questions of a chat, '
            f'or data.format = "{formatter.name}" if they are not.'
        )
    return PreparedData(train, evaluation, report, formatter.name, split.preview)


def _columns_needed(recipe: Recipe) -> dict[str, Loss | Metric]:
    """Return the columns whose numbers losses and metrics ask for, each with the first that does."""
    parts: tuple[Loss | Metric, ...] = (recipe.loss, *recipe.metrics)
    return {name: part for part in reversed(parts) for name in reversed(part.needs_columns)}


def _check_needed(needed: Mapping[str, Loss | Metric], formatter: DatasetFormatter, rows: MappedRows) -> None:
    """Raise a DataError for a column that is needed, and that neither the data nor the formatter has."""
    for name, part in needed.items():
        if rows.columns and name not in rows.columns and name not in formatter.numbers:
            raise DataError(
                f'{part.kind} "{part.name}" needs the column "{name}", which the data does not have'
                f"{did_you_mean(name, rows.columns)}\n"
                f"Its columns are: {', '.join(rows.columns)}. Set data.columns.{name} to the one that holds it."
            )


def _load(recipe: Recipe, split: str, limit: int | None) -> MappedRows:
    """Return a split's rows under canonical column names."""
    rows = recipe.source.load(split)
    if not len(rows):
        raise DataError(nothing_left(split, SplitReport(), recipe.data.max_length))
    return map_columns(rows, recipe.data.columns, limit, split, recipe.data.ignore_columns)


@dataclass(frozen=True, slots=True)
class _Source:
    """Tokenized splits, read from the cache where they are in it."""

    recipe: Recipe
    tokenizer: PreTrainedTokenizerBase
    tokenize: RowTokenizer
    inputs: TemplateInputs
    cache: Path | None
    reporter: Reporter

    def split(self, rows: MappedRows, name: str) -> TokenizedSplit:
        """Return a split's pairs; raise a DataError where none is left."""
        found = self._cached(rows, name) or self._temporary(rows)
        if not len(found.pairs):
            raise DataError(nothing_left(name, found.report, self.recipe.data.max_length))
        return found

    def _cached(self, rows: MappedRows, name: str) -> TokenizedSplit | None:
        if self.cache is None:
            return None

        def build(folder: Path) -> SplitInfo:
            # The other processes of this machine wait, so their cores are free.
            return tokenize_split(rows, self.tokenize, folder, self.reporter, cores())

        formatter, columns = self.tokenize.formatter, self.tokenize.columns
        origin = self.recipe.plugins.owner(type(formatter)).origin
        key = cache_key(rows, name, formatter, origin, self.tokenizer, self.recipe.data, columns, self.inputs)
        try:
            return TokenCache(self.cache / "tokens").get(key, build, self.reporter)
        except WriteError as error:
            self.reporter.warn(
                f"tokenized data is not cached: {self.cache} cannot be written ({error.reason}); see run.cache_dir"
            )
            return None

    def _temporary(self, rows: MappedRows) -> TokenizedSplit:
        """Tokenize into temporary files, whose space is freed as soon as nothing maps them."""
        # Each process does it, so they share the cores.
        processes = max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        try:
            with tempfile.TemporaryDirectory(prefix="dpotrain-", ignore_cleanup_errors=True) as folder:
                found = tokenize_split(rows, self.tokenize, Path(folder), self.reporter, processes)
                return open_split(Path(folder), found)
        except WriteError as error:
            raise DataError(
                f"the tokenized data cannot be written to {tempfile.gettempdir()}: {error.reason}.\n"
                "Free disk space there, or set TMPDIR or run.cache_dir to a folder on another disk."
            ) from error


def _hold_out(
    split: TokenizedSplit, fraction: float, seed: int, reporter: Reporter
) -> tuple[TokenizedPairs, TokenizedPairs | None]:
    """Return training and evaluation pairs that share no prompt."""
    evaluated = held_out(split.prompts, fraction, seed)
    if not evaluated.any():
        text = "All pairs have the same prompt, so none can be held out for evaluation (data.eval_fraction)."
        reporter.warn(text)
        return split.pairs, None
    pairs = split.pairs
    return pairs.select(np.flatnonzero(~evaluated)), pairs.select(np.flatnonzero(evaluated))
