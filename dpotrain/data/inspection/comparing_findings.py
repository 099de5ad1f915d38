"""Findings from comparing pairs with each other, and the answers of a pair."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from dpotrain.core.formats import count as counted
from dpotrain.data.inspection.facts import Facts, pair_shingles
from dpotrain.data.inspection.finding import Finding, by_share, first_rows, of, rows_at
from dpotrain.data.inspection.inspected import InspectedData, InspectedSplit
from dpotrain.data.inspection.near_duplicates import MOST_COMPARED, NearDuplicates, near_duplicates
from dpotrain.data.inspection.shingles import NEAR, Shingles, shingles, words
from dpotrain.data.split_report import FIRST_ROWS


def contradictions(split: InspectedSplit, data: InspectedData) -> Iterator[Finding]:
    """Yield pairs with the answers of an earlier one, the other way round."""
    repeats, pairs = split.report.contradictions, split.report.pairs_kept
    if repeats.count:
        part = repeats.count / pairs
        yield Finding(
            "contradictions",
            by_share(part, 0, 0.01),
            split.name,
            f"{of(repeats.count, pairs, 'pairs')} prefer the answer that an earlier pair with the same prompt and "
            "answers rejects",
            repeats.count,
            part,
            "Remove one of each two, or check how chosen and rejected were assigned.",
            tuple(repeats.first_rows),
            tuple(repeats.earlier_rows),
        )


def duplicates(split: InspectedSplit, data: InspectedData) -> Iterator[Finding]:
    """Yield pairs whose tokens are those of an earlier one."""
    repeats = split.report.duplicates
    if repeats.count:
        part = repeats.count / split.report.pairs_kept
        yield Finding(
            "duplicates",
            by_share(part, 0.01, 0.05),
            split.name,
            f"{of(repeats.count, split.report.pairs_kept, 'pairs')} repeat an earlier pair exactly",
            repeats.count,
            part,
            "Remove them: a pair that stands twice counts twice.",
            tuple(repeats.first_rows),
            tuple(repeats.earlier_rows),
        )


def near_duplicate_pairs(split: InspectedSplit, data: InspectedData) -> Iterator[Finding]:
    """Yield pairs that are nearly, but not exactly, the same as an earlier one."""
    facts = split.facts
    found = near_duplicates(
        lambda band: facts["pair_bands"][:, band],
        facts["content"],
        lambda index: pair_shingles(split.texts(facts[index])),
    )
    if len(found.later):
        part = len(found.later) / len(facts)
        yield Finding(
            "near duplicates",
            by_share(part, 0.02, 0.1),
            split.name,
            f"{_least(found)}{of(len(found.later), len(facts), 'pairs')} have a prompt and answers that are nearly "
            "those of an earlier pair",
            len(found.later),
            part,
            "Compare such rows with --row; keep one of each group, or give them less weight.",
            rows_at(facts, found.later),
            rows_at(facts, found.earlier),
        )


def shared_prompts(split: InspectedSplit, data: InspectedData) -> Iterator[Finding]:
    """Yield prompts of the evaluation split that are trained on."""
    if shared := data.report.shared_prompts.get(split.name):
        yield Finding(
            "prompts shared by training and evaluation",
            "serious",
            split.name,
            f"{counted(shared)} prompts of the evaluation split are also trained on, so that the evaluation is too "
            "optimistic",
            shared,
            min(1.0, shared / max(split.report.pairs_kept, 1)),
            "Use data.eval_fraction, which keeps prompts apart, or remove these rows from one of the splits.",
            tuple(data.report.shared_prompt_rows[split.name]),
        )


def nearly_shared_prompts(split: InspectedSplit, data: InspectedData) -> Iterator[Finding]:
    """Yield prompts of the evaluation set that are nearly, but not exactly, the same as one that is trained on."""
    held_out = next((each for each in data.evaluation if each.split is split), None)
    if held_out is None:
        return
    sets = [*data.training, held_out]
    ends = np.cumsum([len(each.places) for each in sets])
    trained = int(ends[-2])

    def column(of: Callable[[Facts], npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """Return a column of the pairs trained on, followed by those evaluated on."""
        return np.concatenate([of(each.split.facts)[each.places] for each in sets])

    rows = column(lambda facts: facts["row"])

    def read(place: int) -> list[Shingles]:
        number = int(np.searchsorted(ends, place, side="right"))
        own = sets[number]
        at = own.places[place - int(ends[number]) + len(own.places)]
        return [shingles(words(own.split.texts(own.split.facts[at]).prompt))]

    found = near_duplicates(
        lambda band: column(lambda facts: facts["prompt_bands"][:, band]),
        column(lambda facts: facts["prompt"]),
        read,
        lambda later, earlier: (later >= trained) & (earlier < trained),
    )
    if len(found.later):
        part = len(found.later) / len(held_out.places)
        yield Finding(
            "prompts nearly shared by training and evaluation",
            by_share(part, 0, 0.05),
            split.name,
            f"{_least(found)}{counted(len(found.later))} prompts of the evaluation set are nearly the same as one that "
            "is trained on",
            len(found.later),
            part,
            "Hold out whole groups of such prompts, as a split of their own (data.eval_split).",
            tuple(rows[found.later[:FIRST_ROWS]].tolist()),
            # Rows of several sources would be taken for those of one.
            tuple(rows[found.earlier[:FIRST_ROWS]].tolist()) if len(data.training) == 1 else (),
        )


def alike(split: InspectedSplit, data: InspectedData) -> Iterator[Finding]:
    """Yield pairs whose answers are nearly the same."""
    which = split.facts["similarity"] >= NEAR
    if which.any():
        part = float(which.mean())
        yield Finding(
            "nearly identical answers",
            by_share(part, 0.01, 0.05),
            split.name,
            f"{of(int(which.sum()), len(which), 'pairs')} have answers that are nearly the same",
            int(which.sum()),
            part,
            "Check that the difference is the one you want to teach; such pairs make chosen rewards fall.",
            first_rows(split.facts, which),
        )


def _least(found: NearDuplicates) -> str:
    return "" if found.complete else f"(of the first {counted(MOST_COMPARED)} candidates) "
