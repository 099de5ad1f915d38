"""Findings about how rows become pairs: dropped, cut, split between prompt and answer, columns that nothing reads."""

from __future__ import annotations

from collections.abc import Iterator

from dpotrain.core.formats import count as counted
from dpotrain.data.inspection.finding import Finding, by_share, of
from dpotrain.data.inspection.inspected import InspectedData, InspectedSplit


def dropped(split: InspectedSplit, data: InspectedData) -> Iterator[Finding]:
    report = split.report
    for reason, dropped in report.dropped.items():
        part = dropped.count / report.rows_read
        yield Finding(
            "dropped rows",
            by_share(part, 0, 0.05),
            split.name,
            f"{of(dropped.count, report.rows_read, 'rows')} dropped: {reason}",
            dropped.count,
            part,
            "Raise data.max_length, or remove the rows."
            if "max_length" in reason
            else "See such a row with --row; correct it, remove it, or change data.format or [data.columns].",
            tuple(dropped.first_rows),
        )


def cut(split: InspectedSplit, data: InspectedData) -> Iterator[Finding]:
    report = split.report
    if report.completions_cut:
        part = report.completions_cut / (2 * report.pairs_kept)
        longest = report.uncut_lengths["sequence"]["max"]
        yield Finding(
            "cut answers",
            by_share(part, 0.01, 0.1),
            split.name,
            f"{of(report.completions_cut, 2 * report.pairs_kept, 'answers')} cut at max_length = "
            f"{counted(data.report.max_length)}",
            report.completions_cut,
            part,
            f"Raise data.max_length; the longest prompt with answer has {counted(int(longest))} tokens.",
            split.cut_rows,
        )


def open_ended(split: InspectedSplit, data: InspectedData) -> Iterator[Finding]:
    report = split.report
    ends = report.open_ended - report.completions_cut
    if ends > 0:
        part = ends / (2 * report.pairs_kept)
        yield Finding(
            "answers without an end token",
            by_share(part, 0.01, 0.1),
            split.name,
            f"{of(ends, 2 * report.pairs_kept, 'answers')} do not end in a special token, and so do not teach the "
            "model to stop",
            ends,
            part,
            "Check the chat template (model.chat_template) or the tokenizer's EOS token.",
        )


def boundaries(split: InspectedSplit, data: InspectedData) -> Iterator[Finding]:
    report = split.report
    if report.boundaries_moved:
        yield Finding(
            "moved boundaries",
            "note",
            split.name,
            f"{of(report.boundaries_moved, report.pairs_kept, 'pairs')}: the prompt's tokens are not a prefix of prompt "
            "and answer, so that answers begin earlier",
            report.boundaries_moved,
            report.boundaries_moved / report.pairs_kept,
            "See a pair with --row: what is scored should be what the model is to write.",
        )
    if report.turns_unscored:
        yield Finding(
            "moved boundaries",
            "warning",
            split.name,
            f"{counted(report.turns_unscored)} assistant turns inside answers are not (fully) scored, because the chat "
            "template rewrites them",
            report.turns_unscored,
            min(1.0, report.turns_unscored / (2 * report.pairs_kept)),
            "Set model.chat_template to a template that writes a turn the same way once others follow.",
        )


def unused_columns(split: InspectedSplit, data: InspectedData) -> Iterator[Finding]:
    if split.unused_columns:
        names: Sequence[str] = split.unused_columns
        yield Finding(
            "columns that nothing reads",
            "note",
            split.name,
            f"nothing reads {'columns' if len(names) > 1 else 'the column'} {', '.join(names)}",
            len(names),
            0.0,
            "If one holds part of a pair, map it in [data.columns], or set data.format to a formatter that reads it.",
        )
