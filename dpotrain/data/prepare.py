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
from dpotrain.core.pair_columns import PAIR_COLUMNS
from dpotrain.core.reporter import Reporter
from dpotrain.core.template_arguments import COLUMNS as ARGUMENTS
from dpotrain.core.write_errors import WriteError
from dpotrain.data.formats.choose_formatter import Decision, choose_formatter
from dpotrain.data.formats.columns import MappedRows, map_columns
from dpotrain.data.formats.plain_text import question_about_plain_text
from dpotrain.data.report import DataReport, nothing_left
from dpotrain.data.split import held_out
from dpotrain.data.split_report import FIRST_ROWS, SplitReport
from dpotrain.data.tokens.cache import TokenCache
from dpotrain.data.tokens.cache_key import cache_key
from dpotrain.data.tokens.chat_template import TemplateInputs, check_arguments, check_default, reads_clock
from dpotrain.data.tokens.keys import sortable
from dpotrain.data.tokens.limits import Limits
from dpotrain.data.tokens.tokenize_pairs import PairTokenizer
from dpotrain.data.tokens.tokenize_rows import RowTokenizer
from dpotrain.data.tokens.tokenize_split import SplitInfo, TokenizedSplit, open_split, tokenize_split
from dpotrain.data.tokens.tokenized import TokenizedPair, TokenizedPairs
from dpotrain.data.tokens.workers import cores
from dpotrain.plugin.api import Callback, DatasetFormatter, Loss, Metric
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

    @property
    def conversational(self) -> bool:
        """Whether there are conversations among the pairs, and not plain texts alone."""
        return any(one.pairs_kept > one.plain_text for one in self.report.splits.values())

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
    """Read, format, tokenize and split the recipe's data, and report what the user should act on.

    ``cache`` is the folder that keeps the tokens for later runs. Without one they are in temporary files, removed with
    the process. ``preview`` reads only that many rows of each split, without the cache. ``data.limit`` counts a split's
    rows, before any is dropped. ``clock`` is the time that a chat template reads, in ISO 8601, where the recipe does
    not set it; without either it is that of this call.

    Raises DataError where the data cannot be found, is of no known shape, or leaves no pair to train on, and
    RecipeError where ``[data]`` contradicts itself or the data.
    """
    with reporter.phase("reading the data", None):
        reader = DataReader.of(recipe, tokenizer, reporter, cache=cache, preview=preview, clock=clock)
    prepared = reader.prepare()
    for warning in prepared.report.warnings():
        reporter.warn(warning)
    return prepared


@dataclass(frozen=True, slots=True)
class DataReader:
    """The recipe's splits through its formatter and tokenizer, by name."""

    recipe: Recipe
    tokenizer: PreTrainedTokenizerBase
    tokenize: RowTokenizer
    decision: Decision
    splits: dict[str, MappedRows]
    """The rows of the training split, and of the evaluation split if there is one."""
    inputs: TemplateInputs
    clock: str
    """The time in ``inputs`` as it was given."""
    cache: Path | None
    reporter: Reporter

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        tokenizer: PreTrainedTokenizerBase,
        reporter: Reporter,
        *,
        cache: Path | None = None,
        preview: int | None = None,
        clock: str | None = None,
    ) -> DataReader:
        """Find the rows and decide how they are read; arguments and errors are those of :func:`prepare_data`."""
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
        others = {*needed, *ARGUMENTS}
        for_formatter = {name: actual for name, actual in data.columns.items() if name not in others}
        decision = choose_formatter(rows, recipe.plugins.formatters(), recipe.formatter, for_formatter)
        reporter.note(decision.text)
        if decision.warning:
            reporter.warn(decision.warning)
        _check_needed(needed, decision.formatter, rows)
        previewed = 0 if preview is None else _PREVIEWED
        clock = data.clock or clock or datetime.now().isoformat()
        check_arguments(tokenizer, data.template_arguments, "data.template_arguments")
        inputs = TemplateInputs(data.template_arguments, datetime.fromisoformat(clock))
        pairs = PairTokenizer(tokenizer, Limits.of(data), inputs)
        tokenize = RowTokenizer(decision.formatter, pairs, previewed, tuple(needed))
        splits = {data.train_split: rows}
        if data.eval_split is not None and data.eval_fraction is None:
            splits[data.eval_split] = _load(recipe, data.eval_split, limit)
        kept = None if preview is not None else cache
        return cls(recipe, tokenizer, tokenize, decision, splits, inputs, clock, kept, reporter)

    def prepare(self, *, for_training: bool = True) -> PreparedData:
        """Tokenize all splits.

        Raises a DataError for a split without a usable pair, and for plain text of which the recipe does not say
        whether it is a chat's, unless the data is only to be looked at (``for_training`` false).
        """
        data = self.recipe.data
        asked = not self.tokenizer.chat_template or self.recipe.formatter is not None
        if for_training and not asked and self.decision.plain_text:
            formatters = self.recipe.plugins.formatters()
            rows = self.splits[data.train_split]
            raise DataError(question_about_plain_text(rows, self.decision.formatter, formatters))
        report = DataReport(
            format=self.decision.formatter.name,
            decided_by=self.decision.text,
            max_length=data.max_length,
            max_prompt_length=data.max_prompt_length,
            truncation=data.truncation,
            splits={},
            fingerprints={},
        )
        found = {}
        for name, rows in self.splits.items():
            split = found[name] = self._cached(rows, name) or self._temporary(rows)
            if for_training and not len(split.pairs):
                raise DataError(nothing_left(name, split.report, Limits.of(data)))
            report.splits[name], report.fingerprints[name] = split.report, rows.fingerprint
        plain = any(one.plain_text for one in report.splits.values())
        report.plain_text_for_chat_model = plain and bool(self.tokenizer.chat_template)
        report.chat_template_ignored = plain and not asked
        first = found[data.train_split]
        train, evaluation = first.pairs, None
        if data.eval_fraction is not None:
            train, evaluation = _hold_out(first, data.eval_fraction, self.recipe.seed, self.reporter)
        elif data.eval_split is not None:
            held = found[data.eval_split]
            evaluation = held.pairs
            shared = np.isin(sortable(held.prompts), sortable(first.prompts))
            report.shared_prompts = len(np.unique(sortable(held.prompts[shared])))
            report.shared_prompt_rows = held.pairs.rows[shared][:FIRST_ROWS].tolist()
        report.train_pairs = len(train)
        report.evaluation_pairs = None if evaluation is None else len(evaluation)
        prepared = PreparedData(train, evaluation, report, self.decision.formatter.name, first.preview)
        if prepared.conversational and reads_clock(self.tokenizer):
            report.clock = self.clock
        return prepared

    def _cached(self, rows: MappedRows, name: str) -> TokenizedSplit | None:
        if self.cache is None:
            return None

        def build(folder: Path) -> SplitInfo:
            # The other processes of this machine wait, so their cores are free.
            return tokenize_split(rows, self.tokenize, folder, self.reporter, cores())

        formatter, columns = self.tokenize.formatter, self.tokenize.columns
        origin = self.recipe.plugins.owner(type(formatter)).origin
        with self.reporter.phase("hashing the data", None):
            key = cache_key(
                rows, name, formatter, origin, self.tokenizer, self.recipe.data, columns, self.inputs
            )
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


def _columns_needed(recipe: Recipe) -> dict[str, str]:
    """Return the columns whose numbers the pairs keep, each with the first that asks for it."""
    parts = [part for part in recipe.components if isinstance(part, Loss | Metric | Callback)]
    mapped = {name: "[data.columns]" for name in PAIR_COLUMNS if name in recipe.data.pair_columns}
    return mapped | {
        name: f'{part.kind} "{part.name}"' for part in reversed(parts) for name in reversed(part.columns)
    }


def _check_needed(needed: Mapping[str, str], formatter: DatasetFormatter, rows: MappedRows) -> None:
    """Raise a DataError for a column that is needed, and that neither the data nor the formatter has."""
    for name, asking in needed.items():
        if rows.columns and name not in rows.columns and name not in formatter.numbers:
            raise DataError(
                f'{asking} needs the column "{name}", which the data does not have'
                f"{did_you_mean(name, rows.columns)}\n"
                f"Its columns are: {', '.join(rows.columns)}. Set data.columns.{name} to the one that holds it."
            )


def _load(recipe: Recipe, split: str, limit: int | None) -> MappedRows:
    """Return a split's rows under canonical column names."""
    rows = recipe.source.load(split)
    if not len(rows):
        raise DataError(nothing_left(split, SplitReport(), Limits.of(recipe.data)))
    data = recipe.data
    return map_columns(rows, data.columns, limit, split, data.ignore_columns, recipe.source)


def _hold_out(
    split: TokenizedSplit, fraction: float, seed: int, reporter: Reporter
) -> tuple[TokenizedPairs, TokenizedPairs | None]:
    """Return training and evaluation pairs that share no prompt."""
    evaluated = held_out(split.prompts, fraction, seed)
    if len(split.prompts) and not evaluated.any():
        text = "All pairs have the same prompt, so none can be held out for evaluation (data.eval_fraction)."
        reporter.warn(text)
        return split.pairs, None
    pairs = split.pairs
    return pairs.select(np.flatnonzero(~evaluated)), pairs.select(np.flatnonzero(evaluated))
