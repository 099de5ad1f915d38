"""What ``dpotrain check`` says of a recipe's data: lines for a person."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from dpotrain.core.errors import DataError
from dpotrain.core.reporter import SilentReporter, showing_warnings
from dpotrain.data.batches.mixture import Mixture
from dpotrain.data.inspection.inspection import inspect_data
from dpotrain.data.prepare import DataReader
from dpotrain.data.sample_prompts import sample_prompts
from dpotrain.run.folder.log import logging_to
from dpotrain.run.folder.run_folder import RunFolder
from dpotrain.run.planning.dry_run import attach_without_weights
from dpotrain.run.recipe_warnings import recipe_warnings
from dpotrain.ui.console import open_console
from dpotrain.ui.inspection import finding_line
from dpotrain.ui.symbols import Symbols
from dpotrain.ui.token_view import row_lines

if TYPE_CHECKING:
    from dpotrain.core.reporter import Reporter
    from dpotrain.data.prepare import PreparedData
    from dpotrain.recipe.recipe import Recipe

#: Rows of each split that are looked at.
ROWS = 200


def preview(recipe: Recipe, reporter: Reporter) -> list[str]:
    """Put the first rows through formatter and tokenizer, and return what came of it.

    Raises whatever the run itself would raise for these rows, and for the files of the model.
    """
    for warning in recipe.plugins.warnings:
        reporter.warn(warning)
    with showing_warnings(reporter):
        reader = DataReader.of(recipe, recipe.model.load_tokenizer(), reporter, preview=ROWS)
    data = reader.prepare()
    inspection = inspect_data(reader, data, SilentReporter())
    found = [finding for finding in inspection.findings if finding.severity != "note"]
    # What libraries say of themselves is in a run's log; here there is none.
    with logging_to(Path(os.devnull), reporter.warn), showing_warnings(reporter):
        if warning := attach_without_weights(recipe, data):
            reporter.warn(warning)
    sizes, about = _sizes(reader, data)
    amounts: list[str] = []
    pairs = sum(sizes)
    if recipe.data.sources:
        try:
            mixture = Mixture.of(sizes, recipe.data.sources)
        except DataError as error:
            reporter.warn(f"by its first rows, {error}" if about else str(error))
        else:
            amounts, pairs = mixture.lines(), mixture.pairs
    for warning in _doubts(recipe, pairs, about=about):
        reporter.warn(warning)
    lines = [f"{recipe.path}: keys, plugins and files are in order"]
    lines += [f"  {kind}: {name}" for kind, name in _selected(recipe)]
    if recipe.samples is not None:
        prompts = sample_prompts(recipe.samples, reader, data)
        longest = max((len(prompt.ids) for prompt in prompts), default=0)
        lines.append(f"samples: {len(prompts)} prompts, of at most {longest} tokens")
    lines.append(f"the first {ROWS} rows of each split:")
    # The reporter has said already how the format was decided.
    lines += [f"  {line}" for line in data.report.summary_lines() if line != data.report.decided_by]
    if amounts:
        lines.append(f"an epoch{', by these rows' * about}:")
        lines += [f"  {line}" for line in amounts]
    lines.append(f"findings in these rows: {len(found) or 'none'}; dpotrain inspect looks at all rows")
    lines += [f"  {finding_line(finding)}" for finding in found]
    assert inspection.example is not None  # a split without a pair is refused
    lines.append("one pair as the model sees it; dpotrain inspect --row N shows others whole:")
    shown = row_lines(inspection.example, Symbols.of(open_console()), None, short=True)
    lines += [f"  {line.plain}" for line in shown]
    return lines


def _sizes(reader: DataReader, data: PreparedData) -> tuple[list[int], bool]:
    """Return how many training pairs each source has, and whether that is estimated from its first rows."""
    limit, about = reader.recipe.data.limit, False
    sizes = []
    for size, split in zip(data.mixture.sizes, reader.trained, strict=True):
        total = len(split.rows.source)
        total = total if limit is None else min(limit, total)
        sizes.append(max(1, round(size * total / max(1, len(split.rows)))))
        about |= total > len(split.rows)
    return sizes, about


def _doubts(recipe: Recipe, pairs: int, *, about: bool) -> list[str]:
    """Return what the recipe hardly means, for so many pairs of an epoch."""
    found = recipe_warnings(recipe, pairs, about=about)
    folder = RunFolder(recipe.run.output_dir)
    if folder.holds_run():
        found.append(
            f"{folder.path} already holds a run: dpotrain run goes on with it under --resume, and otherwise needs "
            "another folder (--set run.output_dir=…)"
        )
    return found


def _selected(recipe: Recipe) -> list[tuple[str, str]]:
    chosen = [(part.kind, part.name) for part in recipe.components]
    if recipe.adapter is None:
        chosen.append(("adapter", "none, all weights are trained"))
    return chosen
