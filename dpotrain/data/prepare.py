"""From the recipe's ``[data]`` table to tokenized pairs: read, format, tokenize, split, report.

Every process runs this and gets the same result; with a cache, one of a machine tokenizes and the others read.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dpotrain.core.errors import DataError
from dpotrain.core.pair import PreferencePair
from dpotrain.core.reporter import Reporter
from dpotrain.core.write_errors import WriteError
from dpotrain.data.batches.mixture import Mixture
from dpotrain.data.formats.plain_text import question_about_plain_text
from dpotrain.data.report import DataReport, nothing_left
from dpotrain.data.split import held_out
from dpotrain.data.split_reader import SplitReader, naming, split_readers
from dpotrain.data.split_report import FIRST_ROWS
from dpotrain.data.tokens.cache import TokenCache
from dpotrain.data.tokens.cache_key import cache_key
from dpotrain.data.tokens.chat_template import TemplateInputs, check_arguments, check_default, reads_clock
from dpotrain.data.tokens.keys import sortable
from dpotrain.data.tokens.limits import Limits
from dpotrain.data.tokens.tokenize_split import SplitInfo, TokenizedSplit, open_split, tokenize_split
from dpotrain.data.tokens.tokenized import TokenizedPair, TokenizedPairs
from dpotrain.data.tokens.workers import cores
from dpotrain.recipe.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class PreparedData:
    """What the run trains and evaluates on."""

    train: TokenizedPairs
    evaluation: TokenizedPairs | None
    report: DataReport
    """What ``data_report.json`` holds, also as lines of text."""
    mixture: Mixture
    """How many of the training pairs an epoch takes."""
    preview: tuple[PreferencePair, ...] = ()
    """The first few pairs as formatted, where a preview was asked for."""

    @property
    def formatter(self) -> str:
        """Names of the formatters, the recipe's own or those that ``format = "auto"`` chose."""
        return self.report.format

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
    """The recipe's splits through their formatters and the tokenizer."""

    recipe: Recipe
    tokenizer: PreTrainedTokenizerBase
    splits: dict[str, SplitReader]
    """The training split of each source, and its evaluation split if there is one, by their names in reports."""
    inputs: TemplateInputs
    clock: str
    """The time in ``inputs`` as it was given."""
    previewed: bool
    """Whether only the first rows are read."""
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
        check_default(tokenizer)
        clock = recipe.data.clock or clock or datetime.now().isoformat()
        arguments = recipe.data.template_arguments
        check_arguments(tokenizer, arguments, "data.template_arguments")
        inputs = TemplateInputs(arguments, datetime.fromisoformat(clock))
        found = split_readers(recipe, tokenizer, inputs, reporter, preview=preview)
        splits = {each.name: each for each in found}
        kept = None if preview is not None else cache
        return cls(recipe, tokenizer, splits, inputs, clock, preview is not None, kept, reporter)

    @property
    def trained(self) -> list[SplitReader]:
        """The training split of each source, in the recipe's order."""
        return [each for each in self.splits.values() if not each.evaluated]

    def reader_of(self, source: int, *, evaluated: bool) -> SplitReader:
        """Return the split that a source's training pairs, or its held-out pairs, are of."""
        mine = [each for each in self.splits.values() if each.source == source]
        return mine[-1] if evaluated else mine[0]

    def prepare(self, *, for_training: bool = True) -> PreparedData:
        """Tokenize all splits.

        Raises a DataError for a split without a usable pair, and for plain text of which the recipe does not say
        whether it is a chat's, unless the data is only to be looked at (``for_training`` false).
        """
        data = self.recipe.data
        if for_training:
            self._ask_about_plain_text()
        report = DataReport(
            format=", ".join(dict.fromkeys(each.decision.formatter.name for each in self.trained)),
            decided_by="\n".join(each.decided_by for each in self.trained),
            max_length=data.max_length,
            max_prompt_length=data.max_prompt_length,
            truncation=data.truncation,
            splits={},
            fingerprints={},
        )
        found: dict[str, TokenizedSplit] = {}
        for name, reader in self.splits.items():
            split = found[name] = self._cached(reader) or self._temporary(reader)
            if for_training and not len(split.pairs):
                raise DataError(nothing_left(name, split.report, Limits.of(data)))
            report.splits[name], report.fingerprints[name] = split.report, reader.rows.fingerprint
        plain = {name for name, one in report.splits.items() if one.plain_text}
        has_template = bool(self.tokenizer.chat_template)
        report.plain_text_for_chat_model = has_template and bool(plain)
        report.chat_template_ignored = has_template and any(
            self.splits[name].data_set.formatter is None for name in plain
        )
        train, evaluation = self._parted(found, report)
        sizes = np.bincount(train.sources, minlength=len(self.trained)).tolist()
        mixture = self._mixture(sizes, for_training=for_training)
        if not self.previewed:
            report.mixture = mixture
        report.train_pairs = mixture.pairs
        report.evaluation_pairs = None if evaluation is None else len(evaluation)
        shown = found[self.trained[0].name].preview
        prepared = PreparedData(train, evaluation, report, mixture, shown)
        if prepared.conversational and reads_clock(self.tokenizer):
            report.clock = self.clock
        return prepared

    def _ask_about_plain_text(self) -> None:
        """Raise a DataError for plain text of which the recipe does not say whether it is a chat's."""
        if not self.tokenizer.chat_template:
            return
        for each in self.trained:
            if each.data_set.formatter is None and each.decision.plain_text:
                formatters = self.recipe.plugins.formatters()
                with naming(each.data_set):
                    raise DataError(question_about_plain_text(each.rows, each.decision.formatter, formatters))

    def _parted(
        self, found: dict[str, TokenizedSplit], report: DataReport
    ) -> tuple[TokenizedPairs, TokenizedPairs | None]:
        """Return training and evaluation pairs, one source after the other; what they share is reported."""
        trained = [found[each.name] for each in self.trained]
        own = [
            found[each.name] if each.evaluated else None
            for each in (self.reader_of(source, evaluated=True) for source in range(len(trained)))
        ]
        fraction = self.recipe.data.eval_fraction
        held = [np.zeros(len(one.pairs), bool) for one in trained]
        apart = [source for source, split in enumerate(own) if split is None]
        if fraction is not None and apart:
            # Together, so that a prompt of two sources is on one side.
            marks = _hold_out(
                [trained[source] for source in apart], fraction, self.recipe.seed, self.reporter
            )
            for source, mark in zip(apart, marks, strict=True):
                held[source] = mark
        train = TokenizedPairs.joined(
            [
                one.pairs if not mark.any() else one.pairs.select(np.flatnonzero(~mark))
                for one, mark in zip(trained, held, strict=True)
            ]
        )
        evaluated = [
            one.pairs.select(np.flatnonzero(mark)) if split is None else split.pairs
            for one, mark, split in zip(trained, held, own, strict=True)
        ]
        if not any(map(len, evaluated)):
            return train, None
        self._report_shared(trained, held, own, report)
        return train, TokenizedPairs.joined(evaluated)

    def _report_shared(
        self,
        trained: Sequence[TokenizedSplit],
        held: Sequence[npt.NDArray[np.bool_]],
        own: Sequence[TokenizedSplit | None],
        report: DataReport,
    ) -> None:
        """Report prompts of evaluation splits that are also trained on."""
        prompts = np.concatenate([one.prompts[~mark] for one, mark in zip(trained, held, strict=True)])
        known = sortable(prompts)
        for source, split in enumerate(own):
            if split is not None and (shared := np.isin(sortable(split.prompts), known)).any():
                name = self.reader_of(source, evaluated=True).name
                report.shared_prompts[name] = len(np.unique(sortable(split.prompts[shared])))
                report.shared_prompt_rows[name] = split.pairs.rows[shared][:FIRST_ROWS].tolist()

    def _mixture(self, sizes: Sequence[int], *, for_training: bool) -> Mixture:
        """Return what an epoch takes; of the first rows all, and of data that does not do where that is not wanted."""
        names = tuple(each.data_set.label for each in self.trained)
        whole = Mixture(tuple(sizes), tuple(sizes), names)
        tables = [each.data_set.amount for each in self.trained]
        amounts = [table for table in tables if table is not None]
        if self.previewed or not amounts:
            return whole
        try:
            return Mixture.of(sizes, amounts)
        except DataError:
            if for_training:
                raise
            return whole

    def _cached(self, reader: SplitReader) -> TokenizedSplit | None:
        if self.cache is None:
            return None

        def build(folder: Path) -> SplitInfo:
            # The other processes of this machine wait, so their cores are free.
            return tokenize_split(reader.rows, reader.tokenize, folder, self.reporter, cores())

        formatter, columns = reader.tokenize.formatter, reader.tokenize.columns
        origin = self.recipe.plugins.owner(type(formatter)).origin
        with self.reporter.phase("hashing the data", None):
            key = cache_key(
                reader.rows,
                reader.split,
                formatter,
                origin,
                self.tokenizer,
                self.recipe.data,
                columns,
                reader.inputs,
            )
        try:
            return TokenCache(self.cache / "tokens").get(key, build, self.reporter)
        except WriteError as error:
            self.reporter.warn(
                f"tokenized data is not cached: {self.cache} cannot be written ({error.reason}); see run.cache_dir"
            )
            return None

    def _temporary(self, reader: SplitReader) -> TokenizedSplit:
        """Tokenize into temporary files, whose space is freed as soon as nothing maps them."""
        # Each process does it, so they share the cores.
        processes = max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        try:
            with tempfile.TemporaryDirectory(prefix="dpotrain-", ignore_cleanup_errors=True) as folder:
                found = tokenize_split(reader.rows, reader.tokenize, Path(folder), self.reporter, processes)
                return open_split(Path(folder), found)
        except WriteError as error:
            raise DataError(
                f"the tokenized data cannot be written to {tempfile.gettempdir()}: {error.reason}.\n"
                "Free disk space there, or set TMPDIR or run.cache_dir to a folder on another disk."
            ) from error


def _hold_out(
    splits: Sequence[TokenizedSplit], fraction: float, seed: int, reporter: Reporter
) -> list[npt.NDArray[np.bool_]]:
    """Return for each split which of its pairs are held out, so that training and evaluation share no prompt."""
    prompts = np.concatenate([split.prompts for split in splits])
    held = held_out(prompts, fraction, seed)
    if len(prompts) and not held.any():
        text = "All pairs have the same prompt, so none can be held out for evaluation (data.eval_fraction)."
        reporter.warn(text)
    ends = np.cumsum([len(split.prompts) for split in splits])
    return np.split(held, ends[:-1])
