"""A whole split through formatter and tokenizer, into columns in a folder."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from dpotrain.core.pair import PreferencePair
from dpotrain.core.reporter import Reporter
from dpotrain.data.lengths import histogram, length_bias, quantiles
from dpotrain.data.split_report import SplitReport
from dpotrain.data.tokens.column_files import PairFiles, open_pairs, open_prompts
from dpotrain.data.tokens.keys import Keys
from dpotrain.data.tokens.repeats import contradictions, duplicates
from dpotrain.data.tokens.tokenize_rows import RowTokenizer
from dpotrain.data.tokens.tokenized import TokenizedPairs
from dpotrain.data.tokens.workers import map_rows
from dpotrain.plugin.api import Rows


@dataclass(frozen=True, slots=True)
class TokenizedSplit:
    """One split's usable pairs."""

    pairs: TokenizedPairs
    prompts: Keys
    """(pairs,) the :func:`dpotrain.data.tokens.keys.prompt_key` of each."""
    report: SplitReport
    preview: tuple[PreferencePair, ...] = ()
    """The first few pairs as formatted, where a preview was asked for."""


@dataclass(frozen=True, slots=True)
class SplitInfo:
    """What is known of a split besides its columns."""

    report: SplitReport
    largest_token: int
    preview: tuple[PreferencePair, ...] = ()
    columns: tuple[str, ...] = ()
    """Columns whose numbers the pairs have."""


def tokenize_split(
    rows: Rows, tokenize: RowTokenizer, folder: Path, reporter: Reporter, processes: int
) -> SplitInfo:
    """Format and tokenize all rows into an empty folder; the result is the same for any number of ``processes``.

    Raises WriteError where the folder cannot be written, and what reading and formatting the rows raises.
    """
    report = SplitReport()
    preview: list[PreferencePair] = []
    with PairFiles(folder, tokenize.columns) as files, reporter.phase("tokenizing", len(rows)) as advance:
        with closing(map_rows(tokenize, rows, range(len(rows)), reporter, processes)) as batches:
            for batch in batches:
                files.append(batch.pairs, batch.prompts, batch.uncut)
                report.add(batch.report)
                preview += batch.preview[: tokenize.preview - len(preview)]
                advance(batch.report.rows_read)
        uncut = files.finish()
    pairs = open_pairs(folder, files.largest_token, tokenize.columns)
    report.lengths = quantiles(pairs.prompt_lengths, pairs.chosen_lengths, pairs.rejected_lengths)
    report.uncut_lengths = quantiles(*uncut.T)
    report.histogram = histogram(uncut[:, 0] + uncut[:, 1:].max(axis=1))
    report.shortest_prompt = int(uncut[:, 0].min()) if len(uncut) else None
    report.length_bias = length_bias(pairs.chosen_lengths, pairs.rejected_lengths)
    report.duplicates = duplicates(pairs)
    report.contradictions = contradictions(pairs, open_prompts(folder))
    return SplitInfo(report, files.largest_token, tuple(preview), tokenize.columns)


def open_split(folder: Path, found: SplitInfo) -> TokenizedSplit:
    """Open the columns that :func:`tokenize_split` wrote into a folder."""
    pairs = open_pairs(folder, found.largest_token, found.columns)
    return TokenizedSplit(pairs, open_prompts(folder), found.report, found.preview)
