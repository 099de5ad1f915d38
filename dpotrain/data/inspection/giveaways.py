"""What tells chosen from rejected answers without reading them: each as a classifier of one rule, with its accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

#: Standard errors from one half that an accuracy has to be: some thirty rules are tried on the same pairs.
_SURE = 3.5


@dataclass(frozen=True, slots=True)
class Classifier:
    """A rule that guesses the chosen one of two answers; where it cannot tell, half a guess is right."""

    accuracy: float
    decides: int
    """Pairs in which it can tell."""
    sure: bool
    """Whether so large an accuracy is not chance."""

    @classmethod
    def of(cls, right: int, wrong: int, pairs: int) -> Classifier:
        """Return the classifier that is right and wrong in so many of the pairs, and cannot tell in the others."""
        decides = right + wrong
        accuracy = 0.5 + (right - wrong) / (2 * pairs) if pairs else 0.5
        return cls(accuracy, decides, abs(right - wrong) >= _SURE * max(decides, 1) ** 0.5)


def compare(values: npt.NDArray[Any]) -> Classifier:
    """Return the classifier that guesses the answer with the larger of two values, (pairs, 2), to be the chosen one.

    Its accuracy is below one half where it is the rejected one more often.
    """
    right, wrong = int((values[:, 0] > values[:, 1]).sum()), int((values[:, 0] < values[:, 1]).sum())
    return Classifier.of(right, wrong, len(values))


def by_words(words: npt.NDArray[np.uint32], halves: npt.NDArray[np.bool_]) -> Classifier:
    """Return the classifier that has learned, on one half of the pairs, which words chosen answers have more often.

    ``words`` is (pairs, 2), a hash of some words of each answer, and ``halves`` (pairs,) says which pair is in which
    half. Each half is guessed by what was learned on the other.
    """
    seen, which = np.unique(words, return_inverse=True)
    which = which.reshape(words.shape)
    guesses = np.zeros(words.shape)
    for half in (False, True):
        learned = which[halves != half]
        chosen, rejected = (np.bincount(learned[:, side], minlength=len(seen)) for side in (0, 1))
        guesses[halves == half] = np.log((chosen + 1) / (rejected + 1))[which[halves == half]]
    return compare(guesses)


@dataclass(frozen=True, slots=True)
class TellingWords:
    """Words that one side has much more often than the other."""

    hash: int
    chosen: int
    rejected: int
    pair: int
    """Place of the first pair that has them on the side that has them more often."""


def telling_words(words: npt.NDArray[np.uint32], most: int) -> list[TellingWords]:
    """Return the words, of (pairs, 2) hashes, whose counts on the two sides differ most, at most so many.

    That is the first of them, and others that are surely more frequent on one side.
    """
    seen, which = np.unique(words.T, return_inverse=True)
    which = which.reshape(2, -1)
    counts = [np.bincount(side, minlength=len(seen)) for side in which]
    difference = counts[0] - counts[1]
    found: list[TellingWords] = []
    for place in np.argsort(-np.abs(difference), kind="stable")[:most].tolist():
        side = 0 if difference[place] > 0 else 1
        sure = abs(int(difference[place])) >= _SURE * (counts[0][place] + counts[1][place]) ** 0.5
        if not difference[place] or (found and not sure):
            continue
        pair = int(np.flatnonzero(which[side] == place)[0])
        found.append(TellingWords(int(seen[place]), int(counts[0][place]), int(counts[1][place]), pair))
    return found
