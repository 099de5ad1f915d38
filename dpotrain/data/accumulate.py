"""Tokenized pairs that grow one by one in flat columns: a million pairs cost their tokens, no objects."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dpotrain.data.tokenized import TokenizedPair, TokenizedPairs


class PairColumns:
    """Appends pairs in amortized constant time; :meth:`finish` hands the columns over without a copy."""

    def __init__(self) -> None:
        # array's "i" is a C int: 32 bits on every platform that torch runs on.
        self._tokens = array("i")
        self._scored = array("b")
        self._columns = {name: array("q") for name in ("prompt", "chosen", "rejected", "row")}

    def append(self, pair: TokenizedPair) -> None:
        """Add one pair, copying its arrays."""
        for part in (pair.prompt, pair.chosen, pair.rejected):
            self._tokens.frombytes(np.ascontiguousarray(part, np.int32).tobytes())
        for flags in (np.zeros(len(pair.prompt), bool), pair.chosen_scored, pair.rejected_scored):
            self._scored.frombytes(np.ascontiguousarray(flags, bool).tobytes())
        for name, value in (
            ("prompt", len(pair.prompt)),
            ("chosen", len(pair.chosen)),
            ("rejected", len(pair.rejected)),
            ("row", pair.row),
        ):
            self._columns[name].append(value)

    def finish(self) -> TokenizedPairs:
        """Return the pairs in the order they were appended. Nothing may be appended afterwards."""
        prompt, chosen, rejected, rows = (
            np.frombuffer(column, np.int64) if column else np.zeros(0, np.int64)
            for column in self._columns.values()
        )
        lengths = prompt + chosen + rejected
        return TokenizedPairs(
            tokens=np.frombuffer(self._tokens, np.int32) if self._tokens else np.zeros(0, np.int32),
            scored=np.frombuffer(self._scored, np.bool_) if self._scored else np.zeros(0, np.bool_),
            prompt_lengths=prompt,
            chosen_lengths=chosen,
            rejected_lengths=rejected,
            rows=rows,
            starts=np.cumsum(lengths) - lengths,
        )


def take(pairs: TokenizedPairs, indices: Sequence[int] | npt.NDArray[np.int64]) -> TokenizedPairs:
    """Return the pairs of these indices, in this order, as columns of their own."""
    columns = PairColumns()
    for index in indices:
        columns.append(pairs[int(index)])
    return columns.finish()
