"""A name for each tokenized pair that is the same wherever and whenever its tokens are."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from dpotrain.data.tokenized import TokenizedPair

#: 16 bytes of a hash, as a column holds them.
KEY = np.dtype("V16")
Keys: TypeAlias = npt.NDArray[np.void]


def pair_key(pair: TokenizedPair) -> bytes:
    """Return 16 bytes over everything of a pair that its log-probs depend on.

    That is every token, where prompt and answers begin and end, and which tokens are scored; not the row, so
    that a pair keeps its key when rows are added before it.
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


def column(keys: list[bytes]) -> Keys:
    """Return keys of 16 bytes each as a (keys,) column."""
    return np.frombuffer(b"".join(keys), KEY)


def sortable(keys: Keys) -> npt.NDArray[Any]:
    """Return the same (keys,) bytes as a type that numpy sorts and compares, from the first byte on.

    Only whole arrays: a single element taken out of it would lose the zeros at its end.
    """
    return np.ascontiguousarray(keys).view("S16")
