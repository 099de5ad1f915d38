"""Pairs that repeat or contradict an earlier pair of the split, found by their tokens."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from dpotrain.data.split_report import Repeats
from dpotrain.data.tokens.keys import Keys, sortable
from dpotrain.data.tokens.tokenized import TokenizedPairs, Tokens


def duplicates(pairs: TokenizedPairs) -> Repeats:
    """Return the pairs whose tokens are those of an earlier pair."""
    _, first, which = np.unique(sortable(pairs.keys), return_index=True, return_inverse=True)
    earlier = first[which]
    later = np.flatnonzero(earlier != np.arange(len(pairs)))
    return Repeats.of(pairs.rows[later], pairs.rows[earlier[later]])


def contradictions(pairs: TokenizedPairs, prompts: Keys) -> Repeats:
    """Return the pairs that prefer, of the same two answers to the same prompt, the one an earlier pair rejects.

    ``prompts`` are the (pairs,) keys of the prompts. Only answers of pairs whose lengths allow it are read.
    """
    later, earlier = [], []
    seen: dict[tuple[int, bytes, bytes], int] = {}
    prompt = np.unique(sortable(prompts), return_inverse=True)[1]
    for index in _same_prompt_and_lengths(pairs, prompt).tolist():
        pair = pairs[index]
        of, chosen, rejected = int(prompt[index]), _digest(pair.chosen), _digest(pair.rejected)
        other = seen.get((of, rejected, chosen))
        if other is not None:
            later.append(index)
            earlier.append(other)
        seen.setdefault((of, chosen, rejected), index)
    return Repeats.of(pairs.rows[np.array(later, int)], pairs.rows[np.array(earlier, int)])


def _same_prompt_and_lengths(pairs: TokenizedPairs, prompt: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return, in order, the pairs that share prompt and lengths of answers, in either order, with another pair."""
    lengths = (pairs.chosen_lengths, pairs.rejected_lengths)
    columns = (prompt, np.minimum(*lengths), np.maximum(*lengths))
    order = np.lexsort(columns)
    same = np.ones(max(len(order) - 1, 0), bool)
    for column in columns:
        same &= np.diff(column[order]) == 0
    shared = np.zeros(len(order), bool)
    shared[1:] |= same
    shared[:-1] |= same
    return np.sort(order[shared])


def _digest(tokens: Tokens) -> bytes:
    return hashlib.blake2b(tokens.tobytes(), digest_size=16).digest()
