"""A whole split through formatter and tokenizer, into columns in a folder."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dpotrain.core.pair import PreferencePair
from dpotrain.data.report import SplitReport, quantiles
from dpotrain.data.tokens.column_files import PairFiles, open_pairs, open_prompts
from dpotrain.data.tokens.keys import Keys
from dpotrain.data.tokens.tokenized import TokenizedPairs
from dpotrain.data.tokens.workers import CannotStart, tokenize_here, workers

if TYPE_CHECKING:
    from dpotrain.core.reporter import Reporter
    from dpotrain.data.tokens.rows import Batch, RowTokenizer
    from dpotrain.plugin.api import Rows

#: Rows formatted and tokenized at a time: few enough that results come steadily, enough to be worth a message.
BATCH = 128

#: Fewer rows are nearly done before workers begin: each needs about two seconds to import transformers, in which
#: one process tokenizes five thousand rows, and its tokenizer uses the other cores for a third of the work.
ROWS_WORTH_WORKERS = 20_000


@dataclass(frozen=True, slots=True)
class Split:
    """One split's pairs, as far as they are usable."""

    pairs: TokenizedPairs
    prompts: Keys
    """(pairs,) the :func:`dpotrain.data.tokens.keys.prompt_key` of each."""
    report: SplitReport
    shown: tuple[PreferencePair, ...] = ()
    """The first few pairs as formatted, where they were asked for."""


@dataclass(frozen=True, slots=True)
class Read:
    """What there is to know of a split besides the columns that were written."""

    report: SplitReport
    largest_token: int
    shown: tuple[PreferencePair, ...] = ()


def read(rows: Rows, tokenize: RowTokenizer, folder: Path, reporter: Reporter, processes: int) -> Read:
    """Format and tokenize all rows into an empty folder, counting those that are dropped.

    ``processes`` is how many may work at it; order and report are the same for any number.

    Raises WriteError where the folder cannot be written, and whatever reading and formatting the rows raises.
    """
    report = SplitReport()
    shown: list[PreferencePair] = []
    with PairFiles(folder) as files, reporter.phase("tokenizing", len(rows)) as advance:
        # Closed at once, so that an error or Ctrl-C leaves no worker behind.
        with closing(_batches(rows, tokenize, reporter, processes)) as batches:
            for batch in batches:
                files.append(batch.pairs, batch.prompts, batch.uncut)
                report.add(batch.report)
                shown += batch.shown[: tokenize.shows - len(shown)]
                advance(batch.report.rows_read)
        uncut = files.finish()
    pairs = open_pairs(folder, files.largest_token)
    report.lengths = quantiles(pairs.prompt_lengths, pairs.chosen_lengths, pairs.rejected_lengths)
    report.uncut_lengths = quantiles(*uncut.T)
    report.shortest_prompt = int(uncut[:, 0].min()) if len(uncut) else None
    return Read(report, files.largest_token, tuple(shown))


def _batches(
    rows: Rows, tokenize: RowTokenizer, reporter: Reporter, processes: int
) -> Generator[Batch, None, None]:
    numbers = (range(start, min(start + BATCH, len(rows))) for start in range(0, len(rows), BATCH))
    if processes > 1 and len(rows) >= ROWS_WORTH_WORKERS:
        with ExitStack() as stack:
            try:
                running = stack.enter_context(workers(processes, tokenize))
            except (CannotStart, OSError) as error:
                reporter.note(f"tokenizing in one process: there can be no workers, because {error}")
            else:
                yield from running(rows, numbers)
                return
    yield from tokenize_here(rows, numbers, tokenize)


def split_of(folder: Path, found: Read) -> Split:
    """Map the columns that :func:`read` wrote into a folder."""
    return Split(open_pairs(folder, found.largest_token), open_prompts(folder), found.report, found.shown)
