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
        known = {*reader.tokenize.formatter.columns, *reader.tokenize.columns, *ARGUMENTS}
        overviews = {
            name: SplitOverview(
                read_columns=tuple(column for column in reader.splits[name].columns if column in known),
                different_prompts=len(np.unique(split.facts["prompt"])),
            )
            for name, split in splits.items()
        }
    example = None
    if len(prepared.train):
        example = row_view(reader, reader.recipe.data.train_split, int(prepared.train.rows[0]))
    return Inspection(prepared.report, overviews, findings, nothing, example)


def _split(
    name: str, reader: DataReader, prepared: PreparedData, folder: Path, reporter: Reporter
) -> InspectedSplit:
    """Return a split with the facts of the rows that have a pair left."""
    data, formatter, rows = reader.recipe.data, reader.tokenize.formatter, reader.splits[name]
    pairs = _pairs_of(prepared, evaluated=name == data.eval_split, held_out=data.eval_fraction is not None)
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
        evaluated_on=name == data.eval_split,
    )


def _pairs_of(prepared: PreparedData, *, evaluated: bool, held_out: bool) -> list[TokenizedPairs]:
    """Return the pairs of one split: of the training split, both sets where part of it is held out."""
    evaluation = [] if prepared.evaluation is None else [prepared.evaluation]
    if evaluated:
        return evaluation
    return [prepared.train, *(evaluation if held_out else [])]


def _both_sets(
    splits: dict[str, InspectedSplit], reader: DataReader, prepared: PreparedData
) -> InspectedData:
    """Return the inspected splits with what is trained and what is evaluated on."""
    data = reader.recipe.data
    first = splits[data.train_split]
    held = np.zeros(len(first.facts), bool)
    evaluation = None
    if data.eval_split in splits and data.eval_split is not None:
        other = splits[data.eval_split]
        evaluation = PairSet(other, np.arange(len(other.facts)))
    elif prepared.evaluation is not None:
        held = np.isin(first.facts["row"], prepared.evaluation.rows)
        evaluation = PairSet(first, np.flatnonzero(held))
    training = PairSet(first, np.flatnonzero(~held))
    return InspectedData(prepared.report, tuple(splits.values()), training, evaluation)
