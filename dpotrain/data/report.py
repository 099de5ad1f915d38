"""The data report on all splits: as ``data_report.json``, as lines of text, and what the user should act on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from dpotrain.core.formats import count, share
from dpotrain.data.batches.mixture import Mixture
from dpotrain.data.split_report import SplitReport
from dpotrain.data.tokens.limits import (
    ANSWER_FILLS,
    NOTHING_OF_PROMPT,
    PAIR_TOO_LONG,
    PROMPT_TOO_LONG,
    Limits,
    Truncation,
)
from dpotrain.data.tokens.render import UNREAD_ARGUMENT

#: Share of exact duplicates above which a warning is given.
_MANY_DUPLICATES = 0.01

#: How reasons begin for which a chat template is at fault that does not write what it is given.
UNWRITTEN = "the chat template leaves out"
_WRITE_ALL = (
    "Set model.chat_template to a template that writes these parts, or take them out of the data: a model is trained "
    "on what the template writes."
)


@dataclass(slots=True)
class DataReport:
    """The report on all splits."""

    format: str
    """The formatter's name; of a mixture, those of its sources."""
    decided_by: str
    """How it was chosen, as text."""
    max_length: int
    splits: dict[str, SplitReport]
    """By the source's split names; with ``data.eval_fraction`` both sets come from the training split."""
    fingerprints: dict[str, str]
    max_prompt_length: int | None = None
    truncation: Truncation = "end"
    train_pairs: int = 0
    """Of one epoch."""
    mixture: Mixture = field(default_factory=lambda: Mixture.single(0))
    """How many of the training pairs an epoch takes, by source."""
    evaluation_pairs: int | None = None
    chat_template_ignored: bool = False
    """Whether some pairs are plain text, the model has a chat template, and the recipe does not set data.format."""
    plain_text_for_chat_model: bool = False
    """The same, whatever the recipe sets."""
    clock: str | None = None
    """The time that the chat template reads; None where it reads none."""
    shared_prompts: dict[str, int] = field(default_factory=dict)
    """Of each evaluation split the prompts that are also trained on, if there are some."""
    shared_prompt_rows: dict[str, list[int]] = field(default_factory=dict)
    """The first rows of these splits that have one of them."""

    def as_json(self) -> dict[str, Any]:
        """Return plain data for ``data_report.json``."""
        return {
            "format": self.format,
            "decided_by": self.decided_by,
            "max_length": self.max_length,
            "max_prompt_length": self.max_prompt_length,
            "truncation": self.truncation,
            **({"mixture": self.mixture.as_json()} if self.mixture.is_of_several else {}),
            "pairs": {"train": self.train_pairs, "evaluation": self.evaluation_pairs},
            "chat_template_ignored": self.chat_template_ignored,
            "clock": self.clock,
            "shared_prompts": self.shared_prompts,
            "shared_prompt_rows": self.shared_prompt_rows,
            "splits": {name: split.as_json() for name, split in self.splits.items()},
            "fingerprints": self.fingerprints,
        }

    @classmethod
    def restored(cls, plain: Mapping[str, Any]) -> DataReport:
        """Undo :meth:`as_json`; keys of other versions are left out.

        Raises:
            AttributeError, KeyError, TypeError: it is not the data of a report.
        """
        own = {each.name for each in fields(cls)} & plain.keys()
        if not isinstance(plain.get("shared_prompts"), dict):  # before mixtures
            own -= {"shared_prompts", "shared_prompt_rows"}
        values = {name: plain[name] for name in own}
        values["splits"] = {name: SplitReport.restored(split) for name, split in plain["splits"].items()}
        if "mixture" in own:
            values["mixture"] = Mixture.restored(plain["mixture"])
        pairs = plain["pairs"]
        return cls(**values, train_pairs=pairs["train"], evaluation_pairs=pairs["evaluation"])

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
        lines += self.mixture.lines()
        held = self.evaluation_pairs
        others = "none held out for evaluation" if held is None else f"{held} to evaluate on"
        of_an_epoch = " in an epoch" if self.mixture.is_of_several else ""
        lines.append(f"{self.train_pairs} pairs to train on{of_an_epoch}, {others}")
        lines += [
            f"{name}: {shared} prompts of this evaluation split are also trained on"
            for name, shared in self.shared_prompts.items()
        ]
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

    @property
    def limits(self) -> Limits:
        """How long pairs may be."""
        return Limits(self.max_length, self.max_prompt_length, self.truncation)

    # A quarter of either. Of many, a warning says it.
    @staticmethod
    def _cuts_many(split: SplitReport) -> bool:
        return split.completions_cut > split.pairs_kept // 2

    @staticmethod
    def _cuts_many_prompts(split: SplitReport) -> bool:
        return split.prompts_cut > split.pairs_kept // 4

    def _changes(self, name: str, split: SplitReport) -> list[str]:
        lines = []
        if split.unused_columns:
            columns = ", ".join(f"{column} ({rows} rows)" for column, rows in split.unused_columns.items())
            lines.append(f"{name}: columns with text that are not used: {columns}")
        if split.prompts_cut and not self._cuts_many_prompts(split):
            lines.append(f"{name}: {split.prompts_cut} prompts cut at their start by {self.limits.keys}")
        if split.completions_cut and not self._cuts_many(split):
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
            if not text.endswith(UNREAD_ARGUMENT)  # a warning says it
        ]
        return lines

    def prompt_remedy(self, split: SplitReport) -> str:
        """Return what to do about prompts that are cut."""
        remedies = []
        if self.max_prompt_length is not None:
            longest = count(int(split.uncut_lengths["prompt"]["max"]))
            remedies.append(f"Raise data.max_prompt_length; the longest prompt has {longest} tokens.")
        if self.truncation == "start":
            longest = count(int(split.uncut_lengths["sequence"]["max"]))
            remedies.append(f"Raise data.max_length; the longest prompt with answer has {longest} tokens.")
        return " ".join(remedies)

    def plain_text_remedy(self) -> str:
        """Return what to do about pairs of plain text for a model that has a chat template."""
        if self.format == "standard":  # its prompts have a column of their own
            chat = 'Set data.format = "question" if the prompts are questions of a chat, or'
        else:
            chat = "Write the pairs as messages if they are of a chat, or set"
        return f'{chat} data.format = "{self.format}" if they are not.'

    def warnings(self) -> list[str]:
        """Return what the user should probably act on."""
        found = []
        for name, split in self.splits.items():
            if split.rows_dropped:
                dropped = f"{split.rows_dropped} of {split.rows_read} rows of {name} were dropped:"
                found.append("\n  ".join([dropped, *split.drop_lines()]))
                if any(reason.startswith(UNWRITTEN) for reason in split.dropped):
                    found[-1] += f"\n{_WRITE_ALL}"
            if self._cuts_many_prompts(split):
                found.append(
                    f"{self.limits.keys}: {split.prompts_cut} of {split.pairs_kept} prompts of {name} are cut at their "
                    "start. What a prompt has lost, such as its system text, the model does not see.\n"
                    f"{self.prompt_remedy(split)}"
                )
            if self._cuts_many(split):
                found.append(
                    f"max_length = {self.max_length} cuts {split.completions_cut} of {2 * split.pairs_kept} "
                    f"answers of {name}; the longest prompt with answer has "
                    f"{split.uncut_lengths['sequence']['max']:.0f} tokens. A cut answer does not teach the model to "
                    "stop.\nRaise data.max_length."
                )
            unread = [text for text in split.notes if text.endswith(UNREAD_ARGUMENT)]
            if unread:
                names = ", ".join(
                    f"{text.split(chr(34))[1]} ({split.notes[text].count} pairs)" for text in unread
                )
                found.append(
                    f"rows of {name} set variables that the chat template does not read, so they change nothing: "
                    f"{names}.\nSet model.chat_template to a template that reads them, if they should count."
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
                f"template.\n{self.plain_text_remedy()}"
            )
        for name, shared in self.shared_prompts.items():
            found.append(
                f"{shared} prompts of the evaluation split {name} are also trained on, so the evaluation is too "
                "optimistic. Use data.eval_fraction, which keeps prompts apart."
            )
        return found


def nothing_left(split: str, report: SplitReport, limits: Limits) -> str:
    """Return the message for a split without a usable pair."""
    if not report.rows_read:
        return f'Split "{split}" has no rows.\nCheck the file, data.name and data.train_split.'
    lines = [f'No usable pair in split "{split}": all {report.rows_read} rows were dropped.']
    lines += [f"  {line}" for line in report.drop_lines()]
    most = max(report.dropped, key=lambda reason: report.dropped[reason].count)
    if most in (PROMPT_TOO_LONG, NOTHING_OF_PROMPT):
        lines.append(
            f"max_prompt_length = {limits.max_prompt_length}, and the shortest prompt has {report.shortest_prompt} "
            "tokens: raise data.max_prompt_length."
        )
    elif most in (PAIR_TOO_LONG, ANSWER_FILLS):
        shortest = report.uncut_lengths["sequence"]["min"]
        lines.append(
            f"max_length = {limits.max_length}, and the shortest prompt with its longer answer has {shortest:.0f} "
            'tokens: raise data.max_length, or set data.truncation = "end" to cut answers.'
        )
    elif "max_length" in most and report.shortest_prompt is not None:
        lines.append(
            f"max_length = {limits.max_length}, and the shortest prompt has {report.shortest_prompt} tokens: "
            "raise data.max_length."
        )
    elif most.startswith(UNWRITTEN):
        lines.append(_WRITE_ALL)
    elif "chat template" in most:
        lines.append("Set model.chat_template to a template that accepts these conversations.")
    else:
        lines.append("Check these rows; data.format and [data.columns] set how rows are read.")
    return "\n".join(lines)
