"""Findings about how rows become pairs: dropped, cut, split between prompt and answer, columns that nothing reads."""

from __future__ import annotations

from collections.abc import Iterator

from dpotrain.core.formats import count as counted
from dpotrain.data.inspection.finding import Finding, by_share, of
from dpotrain.data.inspection.inspected import InspectedData, InspectedSplit
from dpotrain.data.tokens.render import CONTROL_TOKEN, KEPT_CONTROL_TOKEN, UNREAD_ARGUMENT, UNREAD_KEY


def dropped(split: InspectedSplit, data: InspectedData) -> Iterator[Finding]:
    """Yield one finding a reason."""
    report = split.report
    total = report.pairs_kept + sum(rows.count for rows in report.dropped.values())
    what = "rows" if total == report.rows_read else "pairs"  # a row may give several
    for reason, rows in report.dropped.items():
        part = rows.count / total
        key = next((key for key in ("max_prompt_length", "max_length") if key in reason), "")
        remedy = (
            f"Raise data.{key}, or remove the rows."
            if key
            else "See such a row with --row; correct or remove it, or change data.format or [data.columns]."
        )
        text = f"{of(rows.count, total, what)} dropped: {reason}"
        severity = by_share(part, 0, 0.05)
        yield Finding(
            "dropped rows", severity, split.name, text, rows.count, part, remedy, tuple(rows.first_rows)
        )


def plain_text(split: InspectedSplit, data: InspectedData) -> Iterator[Finding]:
    """Yield pairs of plain text for a model that has a chat template, unless the recipe sets the format."""
    number, pairs = split.report.plain_text, split.report.pairs_kept
    if number and data.report.chat_template_ignored:
        yield Finding(
            "plain text for a chat model",
            "warning",
            split.name,
            f"{of(number, pairs, 'pairs')} are plain text, to which the model's chat template is not applied",
            number,
            number / pairs,
            data.report.plain_text_remedy(),
        )


def cut_prompts(split: InspectedSplit, data: InspectedData) -> Iterator[Finding]:
    """Yield prompts that are cut at their start."""
    number, pairs = split.report.prompts_cut, split.report.pairs_kept
    if number:
        yield Finding(
            "cut prompts",
            by_share(number / pairs, 0.01, 0.1),
            split.name,
            f"{of(number, pairs, 'prompts')} cut at their start by {data.report.limits.keys}",
            number,
            number / pairs,
            data.report.prompt_remedy(split.report),
            split.rows_of("prompts_cut"),
        )


def cut(split: InspectedSplit, data: InspectedData) -> Iterator[Finding]:
    """Yield answers that are cut at max_length."""
    number, answers = split.report.completions_cut, 2 * split.report.pairs_kept
    if number:
        longest = counted(int(split.report.uncut_lengths["sequence"]["max"]))
        yield Finding(
            "cut answers",
            by_share(number / answers, 0.01, 0.1),
            split.name,
            f"{of(number, answers, 'answers')} cut at max_length = {counted(data.report.max_length)}",
            number,
            number / answers,
            f"Raise data.max_length; the longest prompt with answer has {longest} tokens.",
            split.rows_of("completions_cut"),
        )


def open_ended(split: InspectedSplit, data: InspectedData) -> Iterator[Finding]:
    """Yield answers that no special token ends, cut or not."""
    number, answers = split.report.open_ended, 2 * split.report.pairs_kept
    if number:
        yield Finding(
            "answers without an end token",
            by_share(number / answers, 0.01, 0.1),
            split.name,
            f"{of(number, answers, 'answers')} do not end in a special token, so they do not teach the model to stop",
            number,
            number / answers,
            "Check the chat template (model.chat_template) or the tokenizer's EOS token.",
            split.rows_of("open_ended"),
        )


def boundaries(split: InspectedSplit, data: InspectedData) -> Iterator[Finding]:
    """Yield pairs whose answers begin before the end of the prompt as rendered."""
    number, pairs = split.report.boundaries_moved, split.report.pairs_kept
    if number:
        yield Finding(
            "moved boundaries",
            "note",
            split.name,
            f"{of(number, pairs, 'pairs')} have a prompt whose tokens are not a prefix, so their answers begin earlier",
            number,
            number / pairs,
            "See a pair with --row: what is scored should be what the model is to write.",
            split.rows_of("boundaries_moved"),
        )


def unscored_turns(split: InspectedSplit, data: InspectedData) -> Iterator[Finding]:
    """Yield assistant turns that are not scored."""
    number, rows = split.report.turns_unscored, split.rows_of("turns_unscored")
    if number:
        yield Finding(
            "unscored turns",
            "warning",
            split.name,
            f"{counted(number)} assistant turns inside answers are not (fully) scored: the chat template rewrites them",
            number,
            min(1.0, number / (2 * split.report.pairs_kept)),
            "Set model.chat_template to a template that writes a turn the same way when others follow it.",
            rows,
        )


def control_tokens(split: InspectedSplit, data: InspectedData) -> Iterator[Finding]:
    """Yield control tokens that texts hold, one finding a token and a way of reading it."""
    for text, rows in split.report.notes.items():
        if text.startswith(CONTROL_TOKEN):
            kept = KEPT_CONTROL_TOKEN in text
            yield Finding(
                "control tokens in text",
                "warning" if kept else "note",
                split.name,
                f"{of(rows.count, split.report.pairs_kept, 'pairs')}: {text}",
                rows.count,
                rows.count / split.report.pairs_kept,
                "Remove it, unless the text is meant to hold the model's own control token."
                if kept
                else "Nothing, unless it was meant to be a control token: the chat template alone writes those.",
                tuple(rows.first_rows),
            )


def left_out(split: InspectedSplit, data: InspectedData) -> Iterator[Finding]:
    """Yield what else the report notes of pairs: what the chat template does not write."""
    for text, rows in split.report.notes.items():
        if not text.startswith(CONTROL_TOKEN):
            yield Finding(
                "left out by the chat template",
                "note" if text.startswith(UNREAD_KEY) and not text.endswith(UNREAD_ARGUMENT) else "warning",
                split.name,
                f"{of(rows.count, split.report.pairs_kept, 'pairs')}: {text}",
                rows.count,
                rows.count / split.report.pairs_kept,
                "Compare a pair with --row; set model.chat_template to a template that writes it, if it should count.",
                tuple(rows.first_rows),
            )


def unused_columns(split: InspectedSplit, data: InspectedData) -> Iterator[Finding]:
    """Yield columns with text that nothing reads."""
    for name, rows in split.report.unused_columns.items():
        yield Finding(
            "columns that nothing reads",
            "note",
            split.name,
            f'column "{name}" has text in {of(rows, split.report.rows_read, "rows")} and nothing reads it',
            rows,
            rows / split.report.rows_read,
            "If it is part of a pair, map it in [data.columns], or set data.format to a formatter that reads it.",
        )
