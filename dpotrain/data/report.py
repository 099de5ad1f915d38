"""The data report: rows read, pairs kept, rows dropped by reason, lengths; as ``data_report.json`` and as text."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dpotrain.core.formats import share
from dpotrain.data.lengths import Histogram, LengthBias, Lengths

#: Row numbers that are kept of each kind.
FIRST_ROWS = 10
#: Reasons that are counted separately, and the characters kept of each: a reason may quote a row.
_MOST_REASONS = 50
_LONGEST_REASON = 200
OTHER_REASONS = "other reasons"

#: Share of exact duplicates above which a warning is given.
_MANY_DUPLICATES = 0.01

#: How reasons begin for which a chat template is at fault that does not write what it is given.
UNWRITTEN = "the chat template leaves out"
_WRITE_ALL = (
    "Set model.chat_template to a template that writes these parts, or take them out of the data: a model is trained "
    "on what the template writes."
)
#: Fields of a split's report that add up.
_COUNTS = (
    *("rows_read", "pairs_kept", "boundaries_moved", "completions_cut", "turns_unscored", "open_ended"),
    "plain_text",
)


@dataclass(slots=True)
class Counted:
    """Rows of which one thing is reported."""

    count: int = 0
    first_rows: list[int] = field(default_factory=list)

    @property
    def rows(self) -> str:
        """The first rows in words: ``(rows 3, 17, …)``."""
        more = ", …" if self.count > len(self.first_rows) else ""
        return f"(row{'s' * (self.count > 1)} {', '.join(map(str, self.first_rows))}{more})"


@dataclass(slots=True)
class Repeats:
    """Pairs that repeat or contradict an earlier one."""

    count: int = 0
    first_rows: list[int] = field(default_factory=list)
    """Rows of the first of them."""
    earlier_rows: list[int] = field(default_factory=list)
    """For each of these, the row of the earlier pair."""

    @classmethod
    def of(cls, rows: npt.NDArray[np.int64], earlier: npt.NDArray[np.int64]) -> Repeats:
        """Return the report on pairs of these (pairs,) ``rows``, each with the row of its ``earlier`` pair."""
        return cls(len(rows), rows[:FIRST_ROWS].tolist(), earlier[:FIRST_ROWS].tolist())

    def places(self) -> str:
        """Return the rows as text: ``rows 7 (as 2), 9 (as 2), …``."""
        both = zip(self.first_rows, self.earlier_rows, strict=True)
        shown = ", ".join(f"{row} (as {earlier})" for row, earlier in both)
        return f"row{'s' * (self.count > 1)} {shown}{', …' * (self.count > len(self.first_rows))}"


@dataclass(slots=True)
class SplitReport:
    """The report on one split."""

    rows_read: int = 0
    pairs_kept: int = 0
    dropped: dict[str, Counted] = field(default_factory=dict)
    """By the reason."""
    notes: dict[str, Counted] = field(default_factory=dict)
    """Pairs kept, by what the person should know of them."""
    boundaries_moved: int = 0
    """Pairs kept whose prompt was not a token prefix of both answers."""
    completions_cut: int = 0
    """Completions of the pairs kept that are cut at max_length."""
    turns_unscored: int = 0
    """Assistant turns inside completions that are not fully scored, because the chat template rewrites them."""
    open_ended: int = 0
    """Completions of the pairs kept that do not end in a special token."""
    plain_text: int = 0
    """Pairs kept that are plain text, to which no chat template is applied."""
    first_rows: dict[str, list[int]] = field(default_factory=dict)
    """The first rows of what is counted, by the name of the count."""
    unused_columns: dict[str, int] = field(default_factory=dict)
    """Columns with text that nothing reads, with the rows of the pairs kept or dropped that have some."""
    shortest_prompt: int | None = None
    """Tokens of the shortest prompt of all tokenized pairs."""
    lengths: Lengths = field(default_factory=dict)
    """Quantiles of tokens in the pairs kept, by part (see :func:`quantiles`)."""
    uncut_lengths: Lengths = field(default_factory=dict)
    """The same of all tokenized pairs, before any is cut or dropped: the basis for choosing max_length."""
    histogram: Histogram = field(default_factory=dict)
    """Tokens of the prompt with its longer answer, before any is cut or dropped (see :func:`histogram`)."""
    length_bias: LengthBias = field(default_factory=LengthBias)
    """Of the pairs kept."""
    duplicates: Repeats = field(default_factory=Repeats)
    """Pairs kept whose tokens are those of an earlier pair."""
    contradictions: Repeats = field(default_factory=Repeats)
    """Pairs kept that prefer the answer that an earlier pair of the same prompt and answers rejects."""

    def drop(self, row: int, reason: str) -> None:
        """Count a dropped row."""
        _count(self.dropped, reason, [row])

    def note(self, row: int, text: str) -> None:
        """Count a pair that is kept."""
        _count(self.notes, text, [row])

    def count(self, row: int, name: str, number: int) -> None:
        """Add to one of the counts what a row has of it."""
        if number:
            setattr(self, name, getattr(self, name) + number)
            rows = self.first_rows.setdefault(name, [])
            if len(rows) < FIRST_ROWS and row not in rows:
                rows.append(row)

    def leave_unused(self, column: str, rows: int = 1) -> None:
        """Count rows with text in a column that nothing reads."""
        column = " ".join(column[:_LONGEST_REASON].encode("utf-8", "replace").decode().split())
        if column in self.unused_columns or len(self.unused_columns) < _MOST_REASONS:
            self.unused_columns[column] = self.unused_columns.get(column, 0) + rows

    def add(self, part: SplitReport) -> None:
        """Add the counts of the rows that follow; what is known of a whole split only is not merged."""
        for mine, theirs in ((self.dropped, part.dropped), (self.notes, part.notes)):
            for text, counted in theirs.items():
                _count(mine, text, counted.first_rows, counted.count)
        for column, number in part.unused_columns.items():
            self.leave_unused(column, number)
        for name, rows in part.first_rows.items():
            known = self.first_rows.setdefault(name, [])
            known += rows[: FIRST_ROWS - len(known)]
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(part, name))

    @classmethod
    def restored(cls, plain: dict[str, Any]) -> SplitReport:
        """Return the report from the plain data of ``dataclasses.asdict``."""
        typed: dict[str, Any] = {
            name: {text: Counted(**one) for text, one in plain[name].items()} for name in ("dropped", "notes")
        }
        typed["length_bias"] = LengthBias(**plain["length_bias"])
        typed |= {name: Repeats(**plain[name]) for name in ("duplicates", "contradictions")}
        return cls(**{**plain, **typed})

    @property
    def rows_dropped(self) -> int:
        """Rows dropped for any reason."""
        return sum(dropped.count for dropped in self.dropped.values())

    def drop_lines(self) -> list[str]:
        """Return one line for each reason, the most frequent first."""
        return [
            f"{dropped.count} dropped: {reason} {dropped.rows}"
            for reason, dropped in sorted(self.dropped.items(), key=lambda item: -item[1].count)
        ]

    def as_json(self) -> dict[str, Any]:
        """Return plain data for the report file."""
        plain = asdict(self)
        del plain["shortest_prompt"]
        first = {name: plain.pop(name) for name in ("rows_read", "pairs_kept")}
        return {**first, "rows_dropped": self.rows_dropped, **plain}


def _count(counts: dict[str, Counted], text: str, rows: list[int], count: int = 1) -> None:
    """Add rows to those of this text, or of all others where there are too many texts."""
    text = " ".join(text[:_LONGEST_REASON].encode("utf-8", "replace").decode().split())
    if text not in counts and len(counts) >= _MOST_REASONS:
        text = OTHER_REASONS
    found = counts.setdefault(text, Counted())
    found.count += count
    new = [row for row in rows if row not in found.first_rows]  # a row may give several pairs
    found.first_rows += new[: FIRST_ROWS - len(found.first_rows)]


@dataclass(slots=True)
class DataReport:
    """The report on all splits."""

    format: str
    """The formatter's name."""
    decided_by: str
    """How it was chosen, as text."""
    max_length: int
    splits: dict[str, SplitReport]
    """By the source's split names; with ``data.eval_fraction`` both sets come from the training split."""
    fingerprints: dict[str, str]
    train_pairs: int = 0
    evaluation_pairs: int | None = None
    chat_template_ignored: bool = False
    """Whether some pairs are plain text, the model has a chat template, and the recipe does not set data.format."""
    clock: str | None = None
    """The time that the chat template reads; None where it reads none."""
    shared_prompts: int = 0
    """Prompts of ``data.eval_split`` that are also trained on."""
    shared_prompt_rows: list[int] = field(default_factory=list)
    """The first rows of ``data.eval_split`` that have one of them."""

    def as_json(self) -> dict[str, Any]:
        """Return plain data for ``data_report.json``."""
        return {
            "format": self.format,
            "decided_by": self.decided_by,
            "max_length": self.max_length,
            "pairs": {"train": self.train_pairs, "evaluation": self.evaluation_pairs},
            "chat_template_ignored": self.chat_template_ignored,
            "clock": self.clock,
            "shared_prompts": self.shared_prompts,
            "shared_prompt_rows": self.shared_prompt_rows,
            "splits": {name: split.as_json() for name, split in self.splits.items()},
            "fingerprints": self.fingerprints,
        }

    def summary_lines(self) -> list[str]:
        """Return the report as lines of text."""
        lines = [self.decided_by, *self._clock()]
        for name, split in self.splits.items():
            kept = f"{split.pairs_kept} pairs kept, {split.rows_dropped} dropped"
            lines.append(f"{name}: {split.rows_read} rows, {kept}")
            lines += [f"{name}: {line}" for line in split.drop_lines()]
            lines += self._changes(name, split)
            for part, of in split.lengths.items():
                spread = f"median {of['median']:.0f}, 95 % within {of['p95']:.0f}, longest {of['max']:.0f}"
                lines.append(f"{name}: {part} tokens: {spread}")
            lines += self._comparisons(name, split)
        held = self.evaluation_pairs
        others = "none held out for evaluation" if held is None else f"{held} to evaluate on"
        lines.append(f"{self.train_pairs} pairs to train on, {others}")
        if self.shared_prompts:
            lines.append(f"{self.shared_prompts} prompts of the evaluation split are also trained on")
        return lines

    def _comparisons(self, name: str, split: SplitReport) -> list[str]:
        """Return what comparing pairs and answers with each other has found."""
        bias, lines = split.length_bias, []
        if split.pairs_kept:
            longer = share(bias.chosen_longer / split.pairs_kept)
            lines.append(
                f"{name}: chosen answer longer in {longer} of the pairs, and {abs(bias.mean_difference):g} tokens "
                f"{'shorter' if bias.mean_difference < 0 else 'longer'} in the mean of all"
            )
        if split.duplicates.count:
            places = split.duplicates.places()
            lines.append(f"{name}: {split.duplicates.count} pairs repeat an earlier pair ({places})")
        if split.contradictions.count:
            places = split.contradictions.places()
            lines.append(f"{name}: {split.contradictions.count} pairs contradict an earlier pair ({places})")
        return lines

    def changes(self) -> list[str]:
        """Return one line for each way in which kept pairs differ from their rows."""
        return self._clock() + [
            line for name, split in self.splits.items() for line in self._changes(name, split)
        ]

    def _clock(self) -> list[str]:
        if self.clock is None:
            return []
        return [f"the chat template reads the clock: it is {self.clock} in all of the run (data.clock)"]

    def _changes(self, name: str, split: SplitReport) -> list[str]:
        lines = []
        if split.unused_columns:
            columns = ", ".join(f"{column} ({rows} rows)" for column, rows in split.unused_columns.items())
            lines.append(f"{name}: columns with text that are not used: {columns}")
        if split.completions_cut:
            lines.append(f"{name}: {split.completions_cut} answers cut at max_length = {self.max_length}")
        if split.boundaries_moved:
            lines.append(
                f"{name}: boundary of prompt and answers moved back in {split.boundaries_moved} pairs "
                "(the prompt's tokens are not a prefix)"
            )
        if split.turns_unscored:
            lines.append(
                f"{name}: {split.turns_unscored} inner assistant turns not (fully) scored, "
                "because the chat template rewrites them"
            )
        lines += [
            f"{name}: {noted.count} pair{'s' * (noted.count > 1)}: {text} {noted.rows}"
            for text, noted in split.notes.items()
        ]
        return lines

    def warnings(self) -> list[str]:
        """Return what the user should probably act on."""
        found = []
        for name, split in self.splits.items():
            if split.rows_dropped:
                dropped = f"{split.rows_dropped} of {split.rows_read} rows of {name} were dropped:"
                found.append("\n  ".join([dropped, *split.drop_lines()]))
                if any(reason.startswith(UNWRITTEN) for reason in split.dropped):
                    found[-1] += f"\n{_WRITE_ALL}"
            if split.completions_cut > split.pairs_kept // 2:
                found.append(
                    f"max_length = {self.max_length} cuts {split.completions_cut} of {2 * split.pairs_kept} "
                    f"answers of {name}; the longest prompt with answer has "
                    f"{split.uncut_lengths['sequence']['max']:.0f} tokens. A cut answer does not teach the model to "
                    "stop.\nRaise data.max_length."
                )
            if split.open_ended > split.pairs_kept:
                found.append(
                    f"{split.open_ended} of {2 * split.pairs_kept} answers of {name} do not end in a special token "
                    "and so do not teach the model to stop.\n"
                    "Check the chat template (model.chat_template) or the tokenizer's EOS token."
                )
            if split.contradictions.count:
                found.append(
                    f"{split.contradictions.count} pairs of {name} prefer the answer that an earlier pair with the "
                    f"same prompt and answers rejects: {split.contradictions.places()}.\n"
                    "Remove one of each two, or check how chosen and rejected were assigned."
                )
            if split.duplicates.count > _MANY_DUPLICATES * split.pairs_kept:
                found.append(
                    f"{split.duplicates.count} of {split.pairs_kept} pairs of {name} repeat an earlier pair, which "
                    f"counts them several times: {split.duplicates.places()}.\nRemove the duplicates."
                )
        if self.chat_template_ignored:
            plain = sum(split.plain_text for split in self.splits.values())
            found.append(
                f"{plain} pairs are plain text and are trained on as they stand, although the model has a chat "
                'template.\nSet data.format = "question" if the prompts are questions of a chat, '
                f'or data.format = "{self.format}" if they are not.'
            )
        if self.shared_prompts:
            found.append(
                f"{self.shared_prompts} prompts of the evaluation split are also trained on, so the "
                "evaluation is too optimistic. Use data.eval_fraction, which keeps prompts apart."
            )
        return found


def nothing_left(split: str, report: SplitReport, max_length: int) -> str:
    """Return the message for a split without a usable pair."""
    if not report.rows_read:
        return f'Split "{split}" has no rows.\nCheck the file, data.name and data.train_split.'
    lines = [f'No usable pair in split "{split}": all {report.rows_read} rows were dropped.']
    lines += [f"  {line}" for line in report.drop_lines()]
    most = max(report.dropped, key=lambda reason: report.dropped[reason].count)
    if "max_length" in most and report.shortest_prompt is not None:
        lines.append(
            f"max_length = {max_length}, and the shortest prompt has {report.shortest_prompt} tokens: "
            "raise data.max_length."
        )
    elif most.startswith(UNWRITTEN):
        lines.append(_WRITE_ALL)
    elif "chat template" in most:
        lines.append("Set model.chat_template to a template that accepts these conversations.")
    else:
        lines.append("Check these rows; data.format and [data.columns] set how rows are read.")
    return "\n".join(lines)
