"""Findings about what tells chosen from rejected answers without reading them, each with the accuracy that it gives."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dpotrain.core.formats import count as counted
from dpotrain.core.formats import share as percent
from dpotrain.data.inspection.facts import WORDS_AT
from dpotrain.data.inspection.finding import Finding, by_share, first_rows, of
from dpotrain.data.inspection.giveaways import Classifier, by_words, compare, telling_words
from dpotrain.data.inspection.inspected import InspectedData, InspectedSplit
from dpotrain.data.inspection.rules import RULES
from dpotrain.data.inspection.shingles import phrase, words

#: Accuracies of a rule from which it is a warning, and serious.
_TELLING = (0.55, 0.65)
_WORDS_SHOWN = 3
_STYLE = "Check that you want to teach this: a model learns the giveaway before it learns what is better."
_NAMES = {
    "first_word": "the first word",
    "first_words": "the first three words",
    "last_word": "the last word",
}


def systems(split: InspectedSplit, data: InspectedData) -> Iterator[Finding]:
    """Yield pairs whose two sides have different system texts."""
    which = split.facts["systems_differ"]
    if which.any():
        yield Finding(
            "system texts that differ",
            "serious",
            split.name,
            f"{of(int(which.sum()), len(which), 'pairs')} have different system texts on the two sides",
            int(which.sum()),
            float(which.mean()),
            "Move the system text into the prompt, or remove it: it tells the answers apart.",
            first_rows(split.facts, which),
        )


def length(split: InspectedSplit, data: InspectedData) -> Iterator[Finding]:
    """Yield the rule that the longer answer is the chosen one, or the rejected one."""
    bias, pairs = split.report.length_bias, split.report.pairs_kept
    rule = Classifier.of(bias.chosen_longer, bias.rejected_longer, pairs)
    longer = rule.accuracy >= 0.5
    accuracy = max(rule.accuracy, 1 - rule.accuracy)
    if rule.sure and accuracy >= _TELLING[0]:
        longest = bias.chosen_longer if longer else bias.rejected_longer
        which = "chosen" if longer else "rejected"
        part = longest / pairs
        yield Finding(
            "length bias",
            by_share(accuracy, *_TELLING),
            split.name,
            f"the {which} answer is the longer one in {percent(part)} of the pairs, by "
            f"{abs(bias.mean_difference):g} tokens in the mean of all; length alone tells chosen from rejected in "
            f"{percent(accuracy)}",
            longest,
            part,
            "Balance the lengths, or use a loss that does not reward length; the metric length shows what is learned.",
            split.longer_rows(side=0 if longer else 1),
            accuracy=accuracy,
        )


def rules(split: InspectedSplit, data: InspectedData) -> Iterator[Finding]:
    """Yield the rules of :data:`RULES` that tell the answers apart."""
    marks = split.facts["marks"]
    for place, name in enumerate(rule.name for rule in RULES):
        holds = (marks >> np.uint32(place)) & np.uint32(1)
        rule = compare(holds)
        chosen = rule.accuracy >= 0.5
        accuracy = max(rule.accuracy, 1 - rule.accuracy)
        if not rule.sure or accuracy < _TELLING[0]:
            continue
        one, other = ("chosen", "rejected") if chosen else ("rejected", "chosen")
        shares = holds.mean(axis=0)[:: 1 if chosen else -1].tolist()
        side = holds[:, 0] > holds[:, 1] if chosen else holds[:, 0] < holds[:, 1]
        yield Finding(
            "giveaways",
            by_share(accuracy, *_TELLING),
            split.name,
            f"the {one} answer {name} in {percent(shares[0])} of the pairs, the {other} one in {percent(shares[1])}; "
            f"this alone tells them apart in {percent(accuracy)}",
            int(side.sum()),
            float(side.mean()),
            _STYLE,
            first_rows(split.facts, side),
            accuracy=accuracy,
        )


def word_rules(split: InspectedSplit, data: InspectedData) -> Iterator[Finding]:
    """Yield the places of answers whose words tell them apart, with the words that tell most."""
    facts = split.facts
    if not len(facts):
        return
    halves = (facts["prompt"] & np.uint64(1)).astype(bool)
    for column, part in WORDS_AT.items():
        hashes = facts[column]
        rule = by_words(hashes, halves)
        if not rule.sure or rule.accuracy < _TELLING[0]:
            continue
        shown, having = [], np.zeros(len(facts), bool)
        for found in telling_words(hashes, _WORDS_SHOWN):
            side = 0 if found.chosen > found.rejected else 1
            text = phrase(words(split.texts(facts[found.pair]).answers[side])[part])
            shown.append(f'"{text}" {counted(found.chosen)} chosen, {counted(found.rejected)} rejected')
            having |= hashes[:, side] == found.hash
        such = f": {'; '.join(shown)}" if shown else ""
        yield Finding(
            "giveaways",
            by_share(rule.accuracy, *_TELLING),
            split.name,
            f"by {_NAMES[column]} alone, the answers are told apart in {percent(rule.accuracy)} of the pairs{such}",
            rule.decides,
            rule.decides / len(facts),
            _STYLE,
            first_rows(facts, having),
            accuracy=rule.accuracy,
        )
