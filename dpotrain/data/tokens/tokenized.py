"""Token ids of pairs, one by one and as columns: a million pairs as Python objects would take gigabytes of memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from dpotrain.data.tokens.keys import Keys, column

Tokens: TypeAlias = npt.NDArray[np.int32]
Flags: TypeAlias = npt.NDArray[np.bool_]

#: The columns with one entry a pair.
PER_PAIR = (
    *("prompt_lengths", "chosen_lengths", "rejected_lengths", "rows", "starts", "keys", "numbers", "sources"),
)


@dataclass(frozen=True, slots=True)
class TokenizedPair:
    """One pair's token ids. Completions hold no prompt token; the prompt is what both answers share."""

    prompt: Tokens
    """(prompt,) int32, at least one token."""
    chosen: Tokens
    """(chosen,) int32."""
    rejected: Tokens
    chosen_scored: Flags
    """(chosen,) bool: whether the token is the model's own and counts in the log-prob sum; at least one does."""
    rejected_scored: Flags
    row: int
    """Number of the row in the source that the pair came from."""
    numbers: tuple[float, ...] = ()
    """What the row has in the columns that components of the recipe ask for."""
    source: int = 0
    """Which source of a mixture it came from."""

    @property
    def length(self) -> int:
        """Tokens the policy computes for this pair: the prompt once and both completions."""
        return len(self.prompt) + len(self.chosen) + len(self.rejected)

    def longest(self) -> int:
        """Return the tokens of the prompt with the longer completion."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


def pair_key(pair: TokenizedPair) -> bytes:
    """Return 16 bytes over everything of a pair that its log-probs depend on.

    That is every token, where prompt and answers begin and end, and which tokens are scored; not the row.
    """
    digest = hashlib.blake2b(digest_size=16)
    for tokens, scored in (
        (pair.prompt, None),
        (pair.chosen, pair.chosen_scored),
        (pair.rejected, pair.rejected_scored),
    ):
        digest.update(len(tokens).to_bytes(8, "little"))
        digest.update(tokens.astype("<i4", copy=False).tobytes())
        if scored is not None:
            digest.update(scored.astype("?", copy=False).tobytes())
    return digest.digest()


@dataclass(frozen=True, slots=True)
class TokenStore:
    """The tokens of pairs, for each prompt, chosen, rejected, laid end to end."""

    tokens: Tokens
    """(tokens,) int32."""
    scored: Flags
    """(tokens,) bool; False on prompts."""


@dataclass(frozen=True, slots=True)
class TokenizedPairs:
    """Many tokenized pairs as columns. Index with an int for one :class:`TokenizedPair` (views, no copies)."""

    stores: tuple[TokenStore, ...]
    """The tokens of each source. A selection shares them with the whole."""
    prompt_lengths: npt.NDArray[np.int64]
    """(pairs,), as are the other lengths."""
    chosen_lengths: npt.NDArray[np.int64]
    rejected_lengths: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    """(pairs,) number of the row in the source."""
    starts: npt.NDArray[np.int64]
    """(pairs,) where each pair begins in the store of its source."""
    keys: Keys
    """(pairs,) 16 bytes: the :func:`pair_key` of each pair."""
    largest_token: int
    """The largest id, kept because finding it reads them all; -1 without any."""
    numbers: npt.NDArray[np.float64]
    """(pairs, columns) what the rows have in the columns that components of the recipe ask for."""
    sources: npt.NDArray[np.int16]
    """(pairs,) which of the stores each pair's tokens are in."""
    columns: tuple[str, ...] = ()
    """Names of these columns."""

    @classmethod
    def of(cls, pairs: Iterable[TokenizedPair], columns: tuple[str, ...] = ()) -> TokenizedPairs:
        """Lay pairs end to end, copying their arrays."""
        kept = list(pairs)
        tokens, scored = [np.zeros(0, np.int32)], [np.zeros(0, np.bool_)]
        for pair in kept:
            tokens += [pair.prompt, pair.chosen, pair.rejected]
            scored += [np.zeros(len(pair.prompt), np.bool_), pair.chosen_scored, pair.rejected_scored]
        sizes = [len(part) for part in tokens[1:]]
        prompt, chosen, rejected = np.array(sizes, np.int64).reshape(-1, 3).T.copy()
        flat, lengths = np.concatenate(tokens, dtype=np.int32), prompt + chosen + rejected
        return cls(
            stores=(TokenStore(flat, np.concatenate(scored, dtype=np.bool_)),),
            prompt_lengths=prompt,
            chosen_lengths=chosen,
            rejected_lengths=rejected,
            rows=np.array([pair.row for pair in kept], np.int64),
            starts=np.cumsum(lengths) - lengths,
            keys=column([pair_key(pair) for pair in kept]),
            largest_token=int(flat.max(initial=-1)),
            numbers=np.array([pair.numbers for pair in kept], np.float64).reshape(len(kept), len(columns)),
            sources=np.zeros(len(kept), np.int16),
            columns=columns,
        )

    @classmethod
    def joined(cls, parts: Sequence[TokenizedPairs]) -> TokenizedPairs:
        """Return the pairs of several sources, one source after the other; their tokens are not copied.

        The parts have the same columns, and tokens of one source each.
        """
        if len(parts) == 1:
            return parts[0]
        columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in PER_PAIR}
        columns["sources"] = np.repeat(np.arange(len(parts), dtype=np.int16), [len(part) for part in parts])
        return cls(
            stores=tuple(store for part in parts for store in part.stores),
            largest_token=max(part.largest_token for part in parts),
            columns=parts[0].columns,
            **columns,
        )

    def select(self, indices: npt.NDArray[np.int64]) -> TokenizedPairs:
        """Return the pairs of these indices, in this order, over the same tokens."""
        return replace(self, **{name: getattr(self, name)[indices] for name in PER_PAIR})

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> TokenizedPair:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        start = int(self.starts[index])
        middle = start + int(self.prompt_lengths[index])
        second = middle + int(self.chosen_lengths[index])
        end = second + int(self.rejected_lengths[index])
        source = int(self.sources[index])
        store = self.stores[source]
        return TokenizedPair(
            prompt=store.tokens[start:middle],
            chosen=store.tokens[middle:second],
            rejected=store.tokens[second:end],
            chosen_scored=store.scored[middle:second],
            rejected_scored=store.scored[second:end],
            row=int(self.rows[index]),
            numbers=tuple(self.numbers[index].tolist()),
            source=source,
        )

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """(pairs,) tokens the policy computes for each pair."""
        return self.prompt_lengths + self.chosen_lengths + self.rejected_lengths

    @property
    def longest_sequences(self) -> npt.NDArray[np.int64]:
        """(pairs,) tokens of the prompt with the longer completion."""
        return self.prompt_lengths + np.maximum(self.chosen_lengths, self.rejected_lengths)
