"""A name for each tokenized pair that is the same wherever and whenever its tokens are."""

from __future__ import annotations

import hashlib

from dpotrain.data.tokenized import TokenizedPair, TokenizedPairs


def pair_key(pair: TokenizedPair) -> str:
    """Return 32 hex digits over everything of a pair that its log-probs depend on.

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
    return digest.hexdigest()


def pair_keys(pairs: TokenizedPairs) -> list[str]:
    """Return :func:`pair_key` of every pair, in order."""
    return [pair_key(pairs[index]) for index in range(len(pairs))]
