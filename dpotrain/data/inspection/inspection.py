"""From prepared data to an inspection: facts of all pairs, findings, and pairs as the model sees them."""

from __future__ import annotations

import tempfile
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dpotrain.core.errors import DataError
from dpotrain.core.reporter import Reporter
from dpotrain.core.template_arguments import COLUMNS as ARGUMENTS
from dpotrain.core.write_errors import WriteError
from dpotrain.data.inspection.facts import FactReader, collect_facts
from dpotrain.data.inspection.finding import Finding
from dpotrain.data.inspection.findings import find_all
from dpotrain.data.inspection.inspected import InspectedData, InspectedSplit, PairSet
from dpotrain.data.inspection.row_view import RowView, row_view
from dpotrain.data.prepare import DataReader, PreparedData
from dpotrain.data.report import DataReport
from dpotrain.data.split_reader import SplitReader
from dpotrain.data.tokens.tokenized import TokenizedPairs
from dpotrain.data.tokens.workers import cores


@dataclass(frozen=True, slots=True)
class SplitOverview:
    """How the rows of a split are read."""

    read_columns: tuple[str, ...]
    """Columns of the data that the formatter, the chat template, or a loss or metric, knows."""
    different_prompts: int
    """Of the pairs kept."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What ``dpotrain inspect`` shows."""

    report: DataReport
    overviews: dict[str, SplitOverview]
    findings: list[Finding]
    nothing_of: list[str]
    """Kinds of findings that were looked for and not found."""
    example: RowView | None
    """The first pair that is trained on."""

    def as_json(self) -> dict[str, Any]:
        """Return plain data; the keys are documented in recipes/inspect.md."""
        report = self.report.as_json()
        for name, overview in self.overviews.items():
            report["splits"][name] |= {
                "read_columns": list(overview.read_columns),
                "different_prompts": overview.different_prompts,
            }
        return {
            **report,
            "findings": [finding.as_json() for finding in self.findings],
            "nothing_of": self.nothing_of,
            "example": None if self.example is None else self.example.as_json(),
        }


def inspect_data(reader: DataReader, prepared: PreparedData, reporter: Reporter) -> Inspection:
    """Look at all pairs of prepared data.

    Memory does not grow with the texts: 160 bytes a pair are kept in a temporary file. Raises DataError where that
    cannot be written, and what reading the rows raises.
    """
    with tempfile.TemporaryDirectory(prefix="dpotrain-", ignore_cleanup_errors=True) as folder:
        try:
            splits = {name: _split(name, reader, prepared, Path(folder), reporter) for name in reader.splits}
        except WriteError as error:
            raise DataError(
                f"what is found of each pair cannot be written to {folder}: {error.reason}.\n"
                "Free disk space there, or set TMPDIR to a folder on another disk."
            ) from error
        with reporter.phase("comparing pairs", None):
            findings, nothing = find_all(_both_sets(splits, reader, prepared))
        overviews = {
            name: SplitOverview(
                read_columns=_read_columns(reader.splits[name]),
                different_prompts=len(np.unique(split.facts["prompt"])),
            )
            for name, split in splits.items()
        }
    example = None
    if len(prepared.train):
        first = prepared.train[0]
        example = row_view(reader, reader.reader_of(first.source, evaluated=False).name, first.row)
    return Inspection(prepared.report, overviews, findings, nothing, example)


def _read_columns(split: SplitReader) -> tuple[str, ...]:
    known = {*split.tokenize.formatter.columns, *split.tokenize.columns, *ARGUMENTS}
    return tuple(column for column in split.rows.columns if column in known)


def _split(
    name: str, reader: DataReader, prepared: PreparedData, folder: Path, reporter: Reporter
) -> InspectedSplit:
    """Return a split with the facts of the rows that have a pair left."""
    of = reader.splits[name]
    formatter, rows = of.tokenize.formatter, of.rows
    pairs = _pairs_of(of, reader, prepared)
    # A list would take five times the memory.
    kept = array("q", np.unique(np.concatenate([one.rows for one in pairs])).tobytes())
    read = FactReader(formatter)
    facts = collect_facts(rows, kept, read, folder, reporter, cores(), f"inspecting {name}")
    return InspectedSplit(
        name=name,
        report=prepared.report.splits[name],
        rows=rows,
        formatter=formatter,
        facts=facts,
        pairs=pairs,
        evaluated_on=of.evaluated,
    )


def _pairs_of(split: SplitReader, reader: DataReader, prepared: PreparedData) -> list[TokenizedPairs]:
    """Return the pairs of one split: of a training split, both sets where part of it is held out."""
    sets = [] if split.evaluated else [prepared.train]
    holds_out = reader.reader_of(split.source, evaluated=True) is split
    if prepared.evaluation is not None and holds_out:
        sets.append(prepared.evaluation)
    return [each.select(np.flatnonzero(each.sources == split.source)) for each in sets] or [
        prepared.train.select(np.zeros(0, np.int64))
    ]


def _both_sets(
    splits: dict[str, InspectedSplit], reader: DataReader, prepared: PreparedData
) -> InspectedData:
    """Return the inspected splits with what is trained and what is evaluated on."""
    training, evaluation = [], []
    for name, split in splits.items():
        of = reader.splits[name]
        if of.evaluated:
            evaluation.append(PairSet(split, np.arange(len(split.facts))))
            continue
        held = np.zeros(len(split.facts), bool)
        if prepared.evaluation is not None and reader.reader_of(of.source, evaluated=True) is of:
            mine = prepared.evaluation.sources == of.source
            held = np.isin(split.facts["row"], prepared.evaluation.rows[mine])
            evaluation.append(PairSet(split, np.flatnonzero(held)))
        training.append(PairSet(split, np.flatnonzero(~held)))
    return InspectedData(prepared.report, tuple(splits.values()), tuple(training), tuple(evaluation))
