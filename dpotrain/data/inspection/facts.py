"""What inspection keeps of each pair: 160 bytes in a file, whatever the length of its texts."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dpotrain.core.pair import UnusableRow
from dpotrain.core.reporter import Reporter
from dpotrain.core.write_errors import writing
from dpotrain.data.formats.read_row import read_row
from dpotrain.data.inspection.language import language
from dpotrain.data.inspection.rules import Answer, marks
from dpotrain.data.inspection.shingles import (
    BANDS,
    NEAR,
    Shingles,
    Sketch,
    Words,
    bands,
    shingles,
    similarity,
    sketch,
    union,
    words,
)
from dpotrain.data.inspection.texts import PairTexts, pair_texts
from dpotrain.data.tokens.column_files import Column, map_column
from dpotrain.data.tokens.tokenize_rows import NumberedRow
from dpotrain.data.tokens.workers import ROWS_PER_BATCH, map_rows
from dpotrain.plugin.api import DatasetFormatter, Rows

#: One pair. Where there are two, the first is of the chosen answer, the second of the rejected one.
FACTS = np.dtype(
    [
        ("row", "<i8"),
        ("nth", "<i4"),  # place among the pairs of its row
        ("content", "<u8"),  # hash of prompt and answers
        ("prompt", "<u8"),  # hash of the prompt
        ("marks", "<u4", (2,)),  # which rules hold
        ("first_word", "<u4", (2,)),
        ("first_words", "<u4", (2,)),
        ("last_word", "<u4", (2,)),
        ("systems_differ", "?"),
        ("similarity", "<f4"),  # of the two answers
        ("pair_bands", "<u4", (BANDS,)),
        ("prompt_bands", "<u4", (BANDS,)),
    ]
)
Facts = npt.NDArray[Any]

#: Parts of answers that may tell chosen from rejected: a column of :data:`FACTS` to the words that it is the hash of.
WORDS_AT = {"first_word": slice(1), "first_words": slice(3), "last_word": slice(-1, None)}
#: Below this estimate, whose standard error is 0.05, the answers' similarity is not computed exactly.
_SURELY_DIFFERENT = NEAR - 0.25


@dataclass(frozen=True, slots=True)
class FactReader:
    """Formats rows and returns the facts of their pairs; sent to worker processes."""

    formatter: DatasetFormatter

    def __call__(self, rows: Sequence[NumberedRow]) -> Facts:
        """Return the (pairs,) facts of these rows; one that cannot be read has none."""
        found = []
        for number, row in rows:
            for nth, texts in enumerate(read_texts(self.formatter, row, number)):
                found.append((number, nth, *_facts(texts)))
        return np.array(found, FACTS)


def read_texts(formatter: DatasetFormatter, row: Any, number: int) -> list[PairTexts]:
    """Return the texts of the row's pairs; none of a row that is dropped."""
    try:
        return [pair_texts(pair) for pair in read_row(formatter, row, number).pairs]
    except (UnusableRow, RecursionError):
        return []


def pair_shingles(texts: PairTexts) -> list[Shingles]:
    """Return the shingles of prompt, chosen and rejected answer."""
    return [shingles(words(text)) for text in (texts.prompt, *texts.answers)]


def _facts(texts: PairTexts) -> tuple[Any, ...]:
    """Return the fields of :data:`FACTS` after row and place."""
    prompt, *answers = (words(text) for text in (texts.prompt, *texts.answers))
    asked_in = language(texts.prompt, prompt)
    spoken = [language(text, of) for text, of in zip(texts.answers, answers, strict=True)]
    foreign = [bool(asked_in and own and own != asked_in) for own in spoken]
    sets = [shingles(of) for of in (prompt, *answers)]
    sketches = [sketch(of) for of in sets]
    return (
        _hash(texts.prompt, *texts.answers),
        _hash(texts.prompt),
        tuple(
            marks(Answer(text, texts.prompt, own)) for text, own in zip(texts.answers, foreign, strict=True)
        ),
        *(tuple(_word_hash(of[part]) for of in answers) for part in WORDS_AT.values()),
        texts.systems_differ,
        _similarity(sets[1:], sketches[1:]),
        bands(union(sketches)),
        bands(sketches[0]),
    )


def _similarity(sets: Sequence[Shingles], sketches: Sequence[Sketch]) -> float:
    """Return the similarity of two texts: exact where they may be nearly the same, else as estimated."""
    estimate = float((sketches[0] == sketches[1]).mean())
    return similarity(*sets) if estimate >= _SURELY_DIFFERENT else estimate


def _hash(*texts: str) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return int.from_bytes(digest.digest(), "little")


def _word_hash(of: Words) -> int:
    return zlib.crc32("\n".join(of).encode("utf-8", "surrogatepass"))


@contextmanager
def _growing(path: Path) -> Iterator[Callable[[Facts], None]]:
    """Return what appends to a new file of facts."""

    def append(facts: Facts) -> None:
        with writing(path):
            column.append(facts)

    with ExitStack() as files:
        with writing(path):
            column = files.enter_context(Column(path, FACTS, ()))
        yield append
        with writing(path):
            files.close()


def collect_facts(
    rows: Rows,
    numbers: Sequence[int],
    read: FactReader,
    folder: Path,
    reporter: Reporter,
    processes: int,
    name: str,
) -> Facts:
    """Return the facts of the rows of these numbers, mapped from a file in the folder.

    They are the same for any number of ``processes``. Raises WriteError where the folder cannot be written.
    """
    path = folder / f"{len(list(folder.iterdir()))}.npy"
    with _growing(path) as append, reporter.phase(name, len(numbers)) as advance:
        left = len(numbers)
        with closing(map_rows(read, rows, numbers, reporter, processes, name)) as batches:
            for facts in batches:
                append(facts)
                advance(min(left, ROWS_PER_BATCH))
                left -= ROWS_PER_BATCH
    return map_column(path)
