"""What tests of inspection share: rows without anything to find, and their inspection."""

import random
import tempfile
from pathlib import Path

from dpotrain.core.reporter import SilentReporter
from dpotrain.data.inspection.finding import Finding
from dpotrain.data.inspection.inspection import Inspection, inspect_data
from dpotrain.data.prepare import DataReader
from tests.data.preparing import write_recipe
from tests.data.tokenizers_for_tests import bpe

_FOLDERS = tempfile.TemporaryDirectory()  # removed with the process
WORDS = [f"word{number}" for number in range(400)]


def words(draw: random.Random, count: int) -> str:
    return " ".join(draw.choices(WORDS, k=count))


def clean(count: int = 60, seed: int = 0) -> list[dict]:
    """Rows in which nothing is wrong: words drawn at random, answers of the same kind on both sides."""
    draw = random.Random(seed)
    return [
        {
            "prompt": f"question {seed} {number}: {words(draw, 12)}?",
            "chosen": f"{words(draw, 8 + number % 3)}.",
            "rejected": f"{words(draw, 8 + (number + 1) % 3)}.",
        }
        for number in range(count)
    ]


def reader(rows, tokenizer=None, **keys) -> DataReader:
    """A reader over rows in files; a dict of lists is several splits."""
    folder = Path(tempfile.mkdtemp(dir=_FOLDERS.name))
    recipe = write_recipe(folder, rows, **{"max_length": 1000, **keys})
    return DataReader.of(recipe, tokenizer or bpe(), SilentReporter())


def inspected(rows, tokenizer=None, **keys) -> Inspection:
    made = reader(rows, tokenizer, **keys)
    return inspect_data(made, made.prepare(for_training=False), SilentReporter())


def found(rows, kind: str, tokenizer=None, **keys) -> list[Finding]:
    """The findings of one kind; the kind is listed as not found exactly where there is none."""
    inspection = inspected(rows, tokenizer, **keys)
    these = [finding for finding in inspection.findings if finding.kind == kind]
    assert (kind in inspection.nothing_of) == (not these)
    return these
