"""What inspection looks for: a table of functions that yield findings. Another finding is another entry."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dpotrain.data.inspection import comparing_findings as comparing
from dpotrain.data.inspection import giveaway_findings as giveaway
from dpotrain.data.inspection import reading_findings as reading
from dpotrain.data.inspection.finding import SEVERITIES, Finding
from dpotrain.data.inspection.inspected import InspectedData, InspectedSplit


@dataclass(frozen=True, slots=True)
class Finder:
    """A function that looks for one kind of finding in a split."""

    kind: str
    look: Callable[[InspectedSplit, InspectedData], Iterable[Finding]]


#: In the order in which findings of the same severity are shown.
FINDERS = (
    Finder("dropped rows", reading.dropped),
    Finder("cut prompts", reading.cut_prompts),
    Finder("cut answers", reading.cut),
    Finder("answers without an end token", reading.open_ended),
    Finder("control tokens in text", reading.control_tokens),
    Finder("left out by the chat template", reading.left_out),
    Finder("plain text for a chat model", reading.plain_text),
    Finder("system texts that differ", giveaway.systems),
    Finder("contradictions", comparing.contradictions),
    Finder("prompts shared by training and evaluation", comparing.shared_prompts),
    Finder("prompts nearly shared by training and evaluation", comparing.nearly_shared_prompts),
    Finder("duplicates", comparing.duplicates),
    Finder("near duplicates", comparing.near_duplicate_pairs),
    Finder("nearly identical answers", comparing.alike),
    Finder("length bias", giveaway.length),
    Finder("giveaways", giveaway.rules),
    Finder("giveaways", giveaway.word_rules),
    Finder("unscored turns", reading.unscored_turns),
    Finder("moved boundaries", reading.boundaries),
    Finder("columns that nothing reads", reading.unused_columns),
)


def find_all(data: InspectedData) -> tuple[list[Finding], list[str]]:
    """Return the findings, the most serious first, and the kinds of which there are none, if there are pairs."""
    found = [each for finder in FINDERS for split in data.splits for each in finder.look(split, data)]
    kinds = list(dict.fromkeys(finder.kind for finder in FINDERS))

    def place(finding: Finding) -> tuple[int, int, float]:
        telling = finding.share if finding.accuracy is None else finding.accuracy
        return SEVERITIES.index(finding.severity), kinds.index(finding.kind), -telling

    looked_at = any(split.report.pairs_kept for split in data.splits)
    nothing = [kind for kind in kinds if looked_at and not any(each.kind == kind for each in found)]
    return sorted(found, key=place), nothing
