"""What ``dpotrain check`` says of a recipe's data: lines for a person."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from dpotrain.core.formats import printable
from dpotrain.core.reporter import showing_warnings
from dpotrain.data.prepare import prepare_data
from dpotrain.run.folder.log import logging_to
from dpotrain.run.planning.dry_run import attach_without_weights

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dpotrain.core.reporter import Reporter
    from dpotrain.data.tokens.tokenized import Tokens
    from dpotrain.recipe.recipe import Recipe

#: Rows of each split that are looked at.
ROWS = 200
#: Characters that are shown of a prompt or answer, half from each end.
_SHOWN = 600


def preview(recipe: Recipe, reporter: Reporter) -> list[str]:
    """Put the first rows through formatter and tokenizer, and return what came of it.

    Raises whatever the run itself would raise for these rows, and for the files of the model.
    """
    for warning in recipe.plugins.warnings:
        reporter.warn(warning)
    tokenizer = recipe.model.load_tokenizer()
    data = prepare_data(recipe, tokenizer, reporter, preview=ROWS)
    # What libraries say of themselves is in a run's log; here there is none.
    with logging_to(Path(os.devnull), reporter.warn), showing_warnings(reporter):
        if warning := attach_without_weights(recipe, data):
            reporter.warn(warning)
    lines = [f"{recipe.path}: keys, plugins and files are in order"]
    lines += [f"  {kind}: {name}" for kind, name in _selected(recipe)]
    lines.append(f"the first {ROWS} rows of each split:")
    # The reporter has said already how the format was decided.
    lines += [f"  {line}" for line in data.report.summary_lines() if line != data.report.decided_by]
    pair = data.train[0]
    lines.append(f"one pair as the model sees it (row {pair.row}):")
    for part, tokens in (("prompt", pair.prompt), ("chosen", pair.chosen), ("rejected", pair.rejected)):
        lines.append(f"  {part}, {len(tokens)} tokens:")
        lines += [f"    {line}" for line in _text(tokenizer, tokens).splitlines()]
    return lines


def _selected(recipe: Recipe) -> list[tuple[str, str]]:
    chosen = [(part.kind, part.name) for part in recipe.components]
    if recipe.adapter is None:
        chosen.append(("adapter", "none, all weights are trained"))
    return chosen


def _text(tokenizer: PreTrainedTokenizerBase, tokens: Tokens) -> str:
    text = printable(str(tokenizer.decode(tokens.tolist(), clean_up_tokenization_spaces=False)))
    if len(text) <= _SHOWN:
        return text
    return f"{text[: _SHOWN // 2]} … {text[-_SHOWN // 2 :]}"
